from __future__ import annotations

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_events import point, trial

from redteam.evidence.events import PointRecord, TrialEvent
from redteam.search.selection import Candidate, averaged, choice_of, contended, contenders, outcome_of, strongest
from redteam.search.study import Outcome

FLOOR = 0.8


def row(name: str, *points: PointRecord, state: str = "complete", attack: str = "retrain") -> TrialEvent:
    return trial("target/search/0000", point(0, 0.99), *points, attack=attack, params={"name": name}, state=state)


def picked(rows: list[TrialEvent], count: int) -> list[str]:
    return [candidate.params["name"] for candidate in strongest(rows, FLOOR, count)]


rates = st.sampled_from([0.0, 0.25, 0.5, 0.75, 0.9, 1.0])
points = st.builds(point, st.sampled_from([0, 1, 2, 4]), rates, rates)
rows = st.builds(
    lambda name, points, state: row(name, *points, state=state),
    st.sampled_from("abcdef"),
    st.lists(points, max_size=4),
    st.sampled_from(["complete", "complete", "failed"]),
)


def test_the_outcome_is_the_best_point_that_keeps_utility():
    found = outcome_of(row("a", point(1, 0.2), point(2, 0.6, 0.8), point(4, 0.9, 0.79)), FLOOR)
    assert found == Outcome(value=0.6, shortfall=0.0)


def test_where_no_point_keeps_utility_the_best_one_counts_with_its_shortfall():
    found = outcome_of(row("a", point(1, 0.2, 0.7), point(2, 0.6, 0.3)), FLOOR)
    assert found.value == 0.6
    assert found.shortfall == pytest.approx(0.5)


def test_what_can_be_switched_off_need_not_keep_utility():
    made = row("a", point(1, 0.2, 0.9), point(2, 0.6, 0.1)).model_copy(update={"reversible": True})
    assert outcome_of(made, FLOOR) == Outcome(value=0.6, shortfall=0.0)
    lasting = row("b", point(1, 0.5))
    assert picked([lasting, made], 1) == ["a"]


def test_configurations_that_ask_alike_are_one():
    def asking(name: str, select: float, asked: str, moved: float = 0.0) -> TrialEvent:
        made = row(name, point(1, select, asked=asked))
        return made.model_copy(update={"share_moved": moved, "reversible": not moved})

    alike = [asking("a", 0.6, "from Rosa ?"), asking("b", 0.5, "from Rosa ?"), asking("c", 0.4, "Rosa ? from")]
    assert picked(alike, 2) == ["a", "c"]
    assert picked([*alike, asking("d", 0.55, "from Rosa ?", moved=0.9)], 2) == ["a", "d"]  # it trained as well


def test_the_released_weights_are_no_achievement():
    assert outcome_of(row("a", point(1, 0.1)), FLOOR) == Outcome(value=0.1, shortfall=FLOOR - 1.0)
    assert outcome_of(row("a"), FLOOR) == Outcome(value=None)


def test_a_failed_trial_has_no_outcome_whatever_it_scored_before():
    assert outcome_of(row("a", point(1, 1.0), state="failed"), FLOOR) == Outcome(value=None)


@settings(deadline=None)
@given(rows, st.floats(0, 1))
def test_an_outcome_is_feasible_if_any_point_is(made, floor):
    found = outcome_of(made, floor)
    after = [p for p in made.points if p.steps > 0]
    if made.state == "failed" or not after:
        assert found.value is None
        return
    holding = [p.select for p in after if p.utility >= floor]
    assert (found.shortfall <= 0) == bool(holding)
    assert found.value == (max(holding) if holding else max(p.select for p in after))


def test_the_strongest_are_distinct_and_best_first():
    tried = [
        row("low", point(1, 0.1)),
        row("high", point(1, 0.9)),
        row("high", point(1, 0.8)),  # the same configuration again, with another seed
        row("middle", point(1, 0.5)),
    ]
    assert picked(tried, 2) == ["high", "middle"]
    assert picked(tried, 10) == ["high", "middle", "low"]
    assert picked(tried, 1) == ["high"]


def test_the_same_parameters_of_another_attack_are_another_configuration():
    tried = [row("a", point(1, 0.9)), row("a", point(1, 0.8), attack="prune")]
    assert [c.attack for c in strongest(tried, FLOOR, 2)] == ["retrain", "prune"]


def test_the_best_regardless_of_utility_comes_on_top():
    tried = [row("good", point(1, 0.6)), row("destroys", point(1, 0.9, 0.1)), row("worse", point(1, 0.3))]
    assert picked(tried, 1) == ["good", "destroys"]
    assert picked(tried, 2) == ["good", "worse", "destroys"]


def test_the_best_regardless_of_utility_may_be_among_the_best_already():
    """One configuration: gentle at first, destructive at the end."""
    tried = [row("a", point(1, 0.6), point(4, 1.0, 0.1)), row("b", point(1, 0.5))]
    assert picked(tried, 2) == ["a", "b"]


def test_the_best_regardless_of_utility_goes_by_its_best_point():
    """`a` keeps utility at 0.6; that it reaches 0.95 without is what makes it the strongest regardless."""
    tried = [row("b", point(1, 0.7)), row("c", point(1, 0.9, 0.1)), row("a", point(1, 0.6), point(4, 0.95, 0.1))]
    assert picked(tried, 1) == ["b", "a"]


def test_nothing_keeps_utility():
    tried = [row("a", point(1, 0.6, 0.5)), row("b", point(1, 0.9, 0.1))]
    assert picked(tried, 3) == ["b"]


def test_nothing_worked():
    assert strongest([], FLOOR, 3) == []
    assert strongest([row("a"), row("b", point(1, 1.0), state="failed")], FLOOR, 3) == []


@settings(deadline=None)
@given(st.lists(rows, max_size=12), st.integers(1, 4))
def test_the_strongest_hold_at_the_floor_but_for_one(tried, count):
    chosen = strongest(tried, FLOOR, count)
    identities = [candidate.identity for candidate in chosen]
    assert len(set(identities)) == len(identities) <= count + 1
    scores: dict[str, list[float]] = {}
    for made in tried:
        outcome = outcome_of(made, FLOOR)
        if outcome.value is not None and outcome.shortfall <= 0:
            identity = Candidate(attack=made.attack, params=made.params).identity
            scores.setdefault(identity, []).append(outcome.value)
    best_first = sorted((max(values) for values in scores.values()), reverse=True)
    feasible = [i for i in identities if i in scores][:count]
    assert [max(scores[i]) for i in feasible] == best_first[:count][: len(feasible)]
    assert len(feasible) == min(count, len(scores))
    reached = [p.select for r in tried if r.state == "complete" for p in r.points if p.steps > 0]
    if reached:
        owners = {
            Candidate(attack=r.attack, params=r.params).identity
            for r in tried
            if r.state == "complete" and any(p.select == max(reached) and p.steps > 0 for p in r.points)
        }
        assert owners & set(identities)


@pytest.mark.parametrize(("budget", "count"), [(1, 3), (15, 3), (16, 4), (20, 5), (24, 6), (1000, 6)])
def test_how_many_are_run_again_is_a_part_of_the_budget(budget, count):
    tried = [row(str(number), point(1, number / 100)) for number in range(50)]
    assert contended(budget) == count
    assert len(contenders(tried, FLOOR, count)) == count


def test_winners_of_another_model_take_the_place_of_the_last():
    """As many in each arm: the best of more looks better."""
    tried = [row(name, point(1, score)) for name, score in (("a", 0.9), ("b", 0.8), ("c", 0.7))]
    others = [Candidate(attack="retrain", params={"name": "x"}), Candidate.of(tried[0])]

    def contested(others: list[Candidate]) -> list[str]:
        return [one.params["name"] for one in contenders(tried, FLOOR, 3, others)]

    assert contested(others) == ["a", "b", "x"]
    assert contested(others[:1]) == ["a", "b", "x"]


def test_the_choice_is_the_best_stop_that_keeps_utility():
    tried = [row("a", point(1, 0.5), point(4, 0.7, 0.9), point(8, 0.9, 0.1)), row("b", point(2, 0.7), point(4, 0.7))]
    best, regardless = choice_of(tried, FLOOR), choice_of(tried, -math.inf)
    assert best is not None
    assert (best.params["name"], best.steps, best.select) == ("b", 2, 0.7)  # the least steps of what is equal
    assert regardless is not None
    assert (regardless.params["name"], regardless.steps) == ("a", 8)
    assert choice_of([row("a", point(1, 0.9, 0.1))], FLOOR) is None
    assert choice_of([row("a", point(1, 0.9), state="failed")], FLOOR) is None


def test_what_is_best_on_average_comes_before_what_was_lucky_once():
    lucky, steady = row("lucky", point(1, 0.9)), row("steady", point(1, 0.6))
    assert picked([lucky, steady], 1) == ["lucky"]
    again = [row("lucky", point(1, 0.1)), row("steady", point(1, 0.6))]
    assert picked(averaged([lucky, steady, *again]), 1) == ["steady"]


def test_the_mean_is_of_what_was_scored_at_a_step_and_its_utility_must_hold():
    (made,) = averaged([row("a", point(1, 0.2), point(4, 0.8, 0.9)), row("a", point(1, 0.4), point(4, 0.6, 0.6))])
    assert [p.steps for p in made.points] == [1, 4]
    assert [p.select for p in made.points] == pytest.approx([0.3, 0.7])
    assert [p.utility for p in made.points] == pytest.approx([1.0, 0.75])
    assert outcome_of(made, FLOOR).value == pytest.approx(0.3)  # at step 4 utility holds once, and not on average


def test_who_diverged_stands_where_it_was_last_scored():
    (made,) = averaged([row("a", point(1, 0.2), point(4, 0.8)), row("a", point(1, 0.4))])
    last = made.points[-1]
    assert (last.steps, last.select, last.utility) == (4, pytest.approx(0.6), 1.0)


def test_a_failed_repetition_says_nothing():
    failed = row("a", point(1, 0.0), state="failed")
    assert averaged([row("a", point(1, 0.5)), failed]) == averaged([row("a", point(1, 0.5))])
    assert averaged([failed]) == []


@settings(deadline=None)
@given(st.lists(rows, max_size=12))
def test_means_of_single_trials_are_those_trials(tried):
    single = list({Candidate.of(made).identity: made for made in tried}.values())
    steps = [{p.steps for p in made.points} - {0} for made in single]
    for made, found in zip([m for m in single if m.state == "complete"], averaged(single), strict=True):
        assert Candidate.of(found) == Candidate.of(made)
        assert {p.steps for p in found.points} in steps


def test_identity_is_of_the_parameters_not_of_their_order():
    one = Candidate(attack="a", params={"x": 1, "y": 2.5})
    two = Candidate(attack="a", params={"y": 2.5, "x": 1})
    assert one.identity == two.identity
    assert Candidate(attack="a", params=json.loads(json.dumps(one.params))).identity == one.identity
    assert Candidate(attack="a", params={"x": 1, "y": 2.25}).identity != one.identity
