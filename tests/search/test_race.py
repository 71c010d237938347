from __future__ import annotations

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


def test_a_family_far_behind_its_own_spread_is_out():
    found = standings(leader=[0.5, 0.9], behind=[0.1, 0.12], wide=[0.1, 0.8], constant=[0.3, 0.3])
    assert contenders(found) == ("leader", "wide")


def test_one_value_shows_no_spread_yet():
    assert contenders(standings(leader=[0.9, 0.8], new=[0.1])) == ("leader", "new")


def test_a_family_that_only_failed_is_out_unless_all_did():
    failed = Standing(3)
    assert contenders({"a": failed, "b": Standing(2, (0.1, 0.2))}) == ("b",)
    assert contenders({"a": failed, "b": failed}) == ("a", "b")


def test_the_guaranteed_share_comes_first():
    found = {"a": Standing(5, (0.9,) * 5), "b": Standing(1, (0.0,)), "c": Standing(2, (0.0, 0.0))}
    assert next_families(found, share=2) == ("b",)
    assert next_families(found, share=3) == ("b",)
    assert next_families(found, share=1) == ("a", "b")  # one value of b: it may still win; c may not


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from("abcdef"), values, min_size=1), st.integers(0, 4))
def test_someone_always_goes_on_and_the_leader_is_never_out(achieved, share):
    found = standings(**achieved)
    names = next_families(found, share)
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
    assert counts["a"] > 25


def test_the_parameters_of_the_winner_are_tuned(searched):
    """TPE models a family's own parameter although three other families have trials too."""
    late = [x for name, x in searched[-15:] if name == "a"]
    assert len(late) >= 10
    assert sorted(late)[len(late) // 2] > 0.8
