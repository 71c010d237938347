from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from redteam.search.plan import SearchPlan, plan_search
from redteam.target import TargetInfo

INFO = TargetInfo(kind="language", architecture="llama", parameters=1000, layers=2, hidden_size=8)


class Recipes:
    """All of an attack that planning looks at."""

    def __init__(self, count: int) -> None:
        self.count = count

    def recipes(self, target: TargetInfo, samples: int) -> Sequence[dict[str, Any]]:
        assert target is INFO
        return [{"rank": rank, "samples": samples} for rank in range(self.count)]


def plan_of(counts: Sequence[int], budget: int) -> SearchPlan:
    return plan_search({f"a{n}": Recipes(count) for n, count in enumerate(counts)}, INFO, 40, budget)


recipe_counts = st.lists(st.integers(0, 12), min_size=1, max_size=8)


@pytest.mark.parametrize("counts", [[0], [1], [6], [6, 6], [1, 20], [3] * 7, [200] * 3, [2] * 40], ids=str)
def test_a_plan_sums_to_the_budget(counts):
    for budget in range(1, 301):
        plan = plan_of(counts, budget)
        assert plan.budget == len(plan.recipes) + plan.random + plan.adaptive == budget
        assert min(plan.random, plan.adaptive) >= 0
        assert len(plan.recipes) <= max(1, budget // 3, min(len(counts), budget))
        assert len(plan.recipes) <= sum(counts)


@settings(deadline=None)
@given(recipe_counts, st.integers(1, 300))
def test_the_first_recipes_then_recipes_and_variations_in_turn_then_the_rest(counts, budget):
    plan = plan_of(counts, budget)
    phases = [plan.phase(index) for index in range(budget)]
    assert plan.first == min(len(plan.recipes), sum(1 for count in counts if count))
    assert phases[: plan.first] == ["recipe"] * plan.first
    others = len(plan.recipes) - plan.first
    turns = phases[plan.first : len(plan.recipes) + plan.between]
    assert turns[: 2 * plan.between] == ["adaptive", "recipe"] * plan.between
    assert turns[2 * plan.between :] == ["recipe"] * (others - plan.between)
    assert plan.between in (others, plan.adaptive)
    assert [phases.count(phase) for phase in ("recipe", "random", "adaptive")] == [
        len(plan.recipes),
        plan.random,
        plan.adaptive,
    ]
    for index in range(budget):
        assert plan.adaptive_before(index) == phases[:index].count("adaptive")
    recipes = [plan.recipe(index) for index, phase in enumerate(phases) if phase == "recipe"]
    assert tuple(recipes) == plan.recipes


@settings(deadline=None)
@given(recipe_counts, st.integers(1, 300))
def test_random_trials_are_spread_evenly_after_the_recipes(counts, budget):
    plan = plan_of(counts, budget)
    rest = [plan.phase(index) for index in range(len(plan.recipes) + plan.between, budget)]
    for place in range(len(rest)):
        assert abs(rest[:place].count("random") - place * plan.random / len(rest)) < 1


@settings(deadline=None)
@given(recipe_counts, st.integers(1, 300))
def test_recipes_alternate_with_each_attacks_best_first(counts, budget):
    plan = plan_of(counts, budget)
    tried = [(params["rank"], int(name[1:])) for name, params in plan.recipes]
    assert tried == sorted(tried)  # all of the first rank in the order of attacks, then all of the second
    everything = sorted((rank, n) for n, count in enumerate(counts) for rank in range(count))
    assert tried == everything[: len(tried)]
    assert all(params["samples"] == 40 for _, params in plan.recipes)


@settings(deadline=None)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=8), st.integers(1, 300))
def test_every_attack_gets_its_best_recipe_if_the_budget_allows(counts, budget):
    named = [name for name, _ in plan_of(counts, budget).recipes]
    assert set(named) >= {f"a{n}" for n in range(min(len(counts), budget))}


@settings(deadline=None)
@given(recipe_counts, st.integers(1, 300))
def test_two_fifths_of_the_rest_are_random(counts, budget):
    plan = plan_of(counts, budget)
    rest = budget - len(plan.recipes)
    assert 0.4 * rest <= plan.random < 0.4 * rest + 1


@pytest.mark.parametrize(
    ("budget", "parts"),
    [(1, (1, 0, 0)), (2, (1, 1, 0)), (3, (1, 1, 1)), (10, (3, 3, 4)), (100, (6, 38, 56)), (300, (6, 118, 176))],
)
def test_one_attack_with_six_recipes(budget, parts):
    plan = plan_of([6], budget)
    assert (len(plan.recipes), plan.random, plan.adaptive) == parts


@settings(deadline=None)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=20), st.integers(1, 300))
def test_half_of_an_equal_division_is_guaranteed(counts, budget):
    plan = plan_of(counts, budget)
    assert plan.share * 2 * len(counts) <= budget < (plan.share + 1) * 2 * len(counts)
