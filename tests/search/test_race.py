from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from redteam.search.plan import SearchPlan
from redteam.search.race import Standing, contenders, next_families
from redteam.search.study import Outcome, Search
from redteam.target import TargetInfo

INFO = TargetInfo(kind="language", architecture="llama", parameters=1000, layers=2, hidden_size=8)
values = st.lists(st.floats(-1, 1), max_size=6)


def standings(**achieved: list[float]) -> dict[str, Standing]:
    return {name: Standing(len(given), tuple(given)) for name, given in achieved.items()}


def test_a_family_far_behind_is_out_the_sooner_the_more_trials_it_had():
    leader = [0.9, 0.1, 0.5, 0.9]
    assert contenders(standings(leader=leader, other=[0.4])) == ("leader", "other")
    assert contenders(standings(leader=leader, other=[0.4] * 8)) == ("leader",)


@pytest.mark.parametrize(("behind", "expected"), [(0.20, ("a", "b")), (0.21, ("a",))])
def test_the_bonus_is_that_of_ucb(behind, expected):
    """With these values it is 0.209, computed here by hand."""
    found = standings(a=[1.0, 0.5], b=[1 - behind, 1 - behind])
    values = [1.0, 0.5, 1 - behind, 1 - behind]
    mean = sum(values) / 4
    spread = math.sqrt(sum((value - mean) ** 2 for value in values) / 4)
    assert (behind <= spread * math.sqrt(2 * math.log(4) / 2)) == ("b" in expected)
    assert contenders(found) == expected


def test_a_family_that_only_failed_is_out_unless_all_did():
    failed = Standing(3)
    assert contenders({"a": failed, "b": Standing(2, (0.1, 0.2))}) == ("b",)
    assert contenders({"a": failed, "b": failed}) == ("a", "b")


def test_the_guaranteed_share_comes_first():
    found = {"a": Standing(5, (0.9,) * 5), "b": Standing(1, (0.0,)), "c": Standing(2, (0.0, 0.0))}
    assert next_families(found, share=2, adaptive=2) == ("b",)
    assert next_families(found, share=3, adaptive=0) == ("b",)
    assert next_families(found, share=1, adaptive=0) == contenders(found) != tuple(found)


def test_every_third_trial_may_go_to_anyone():
    found = standings(leader=[0.9] * 9, beaten=[0.1] * 9)
    who = [next_families(found, share=1, adaptive=number) for number in range(6)]
    assert who == [("leader",), ("leader",), ("leader", "beaten")] * 2


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from("abcdef"), values, min_size=1), st.integers(0, 4))
def test_someone_always_goes_on_and_the_leader_is_never_out(achieved, share):
    found = standings(**achieved)
    names = next_families(found, share, adaptive=0)
    assert names
    assert set(names) <= set(found)
    if min(standing.trials for standing in found.values()) >= share:
        best = {name: max(given) for name, given in achieved.items() if given}
        assert not best or max(best, key=best.get) in names


def test_a_standing_counts_failures_without_a_value():
    assert Standing().after(0.3).after(None) == Standing(2, (0.3,))


class Dial:
    """One number that decides everything."""

    def space(self, suggest, target, samples):
        return {"x": suggest.suggest_float("x", 0.0, 1.0)}

    def recipes(self, target, samples):
        return []


FAMILIES = {name: Dial() for name in "abcd"}


@pytest.fixture(scope="module")
def searched(tmp_path_factory) -> list[tuple[str, float]]:
    """Family "a" can reach 1, the others never exceed 0.2; "d" always fails."""
    plan = SearchPlan(recipes=(), random=12, adaptive=48, share=6)
    search = Search(
        plan, FAMILIES, INFO, 10, seed=0, arm="target", storage=tmp_path_factory.mktemp("race") / "study.db"
    )
    found = []
    for index in range(plan.budget):
        name, params = search.propose(index)
        found.append((name, params["x"]))
        search.record(Outcome(value=None if name == "d" else params["x"] * (1.0 if name == "a" else 0.2)))
    return found


def test_every_family_gets_its_share_and_the_winner_the_rest(searched):
    counts = Counter(name for name, _ in searched)
    assert min(counts.values()) >= 6
    assert counts["a"] > 20


def test_the_parameters_of_the_winner_are_tuned(searched):
    """TPE models a family's own parameter although three other families have trials too."""
    late = [x for name, x in searched[-18:] if name == "a"]
    assert len(late) >= 10
    assert sorted(late)[len(late) // 2] > 0.8
