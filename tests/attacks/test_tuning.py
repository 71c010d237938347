"""Learning rates of recipes: as they were found on narrow models, and fitted to wide ones."""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any

import optuna
import pytest
from test_conformance import INFO

from redteam.attacks.tuning import FULL, at_width, recipe
from redteam.registry import ATTACKS
from redteam.search.plan import plan_search
from redteam.target import TargetInfo

WIDTHS = (256, 2048, 16384)


def of_width(hidden_size: int, kind: Any = "language") -> TargetInfo:
    return dataclasses.replace(INFO, hidden_size=hidden_size, kind=kind)


def rates_of(name: str, hidden_size: int, kind: Any = "language") -> list[tuple[str, float]]:
    """Optimizer and learning rate of each recipe that trains."""
    recipes = ATTACKS.create(name).recipes(of_width(hidden_size, kind), 300)
    named = [(params["optimizer"], params) for params in recipes if "optimizer" in params]
    return [(optimizer, params[f"learning_rate.{optimizer}"]) for optimizer, params in named]


AT_128 = {
    "retrain": [
        *(("relative", 3e-4), ("adamw", 3e-4), ("sgd", 1e-2), ("adamw", 5e-5), ("adamw", 1e-3), ("adamw", 3e-4)),
        *(("adamw", 3e-3), ("adamw", 2e-5), ("lion", 1e-4), ("muon", 1e-3)),
    ],
    "lora": [("relative-adam", 1e-3), *(("adamw", rate) for rate in (1e-3, 1e-2, 1e-4, 1e-2, 2e-4))],
    "partial": [("adamw", rate) for rate in (1e-3, 1e-3, 1e-2, 1e-3)],
    "mixture": [("sgd", 2e-2), ("relative", 1e-3), *(("adamw", rate) for rate in (3e-4, 1e-3, 1e-3, 1e-3, 3e-3))],
    "benign": [("adamw", rate) for rate in (1e-3, 3e-4, 1e-3, 3e-3, 1e-3)],
    "curriculum": [("relative", 1e-3), *(("adamw", rate) for rate in (1e-3, 3e-4, 3e-3))],
    "perturb": [("adamw", 1e-3)] * 3,
    "quantize": [("adamw", 1e-3)],
    "prune": [("adamw", 1e-3)],
}


@pytest.mark.parametrize("name", AT_128)
@pytest.mark.parametrize("hidden_size", [0, 16, 128])
def test_recipes_of_narrow_models_are_what_they_were(name: str, hidden_size: int) -> None:
    """The testbeds' width is 128; 0 is that of a classifier whose width cannot be told."""
    assert rates_of(name, hidden_size) == AT_128[name]
    if hidden_size == 0 and name != "partial":
        assert rates_of(name, 0, "classifier") == AT_128[name]


@pytest.mark.parametrize("name", AT_128)
@pytest.mark.parametrize("kind", ["language", "classifier"])
@pytest.mark.parametrize("hidden_size", WIDTHS)
def test_recipes_of_wide_models_lie_within_the_space_and_differ(name: str, kind: str, hidden_size: int) -> None:
    attack, info = ATTACKS.create(name), of_width(hidden_size, kind)
    recipes = [dict(params) for params in attack.recipes(info, 300)]
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for params in recipes:
        study.enqueue_trial(params)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert dict(attack.space(study.ask(), info, 300)) == params
    assert all(params not in recipes[:place] for place, params in enumerate(recipes))


@pytest.mark.parametrize("name", AT_128)
def test_warm_up_is_in_the_space_and_in_no_recipe(name: str) -> None:
    attack, drawn = ATTACKS.create(name), set()
    for seed in range(60):
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
        drawn.add(attack.space(study.ask(), INFO, 300).get("schedule"))
    assert drawn - {None} == {"constant", "cosine", "one-cycle"}
    assert all(params.get("schedule") != "one-cycle" for params in attack.recipes(INFO, 300))


def test_each_optimizer_by_its_own_power_and_never_out_of_range() -> None:
    given = [recipe(optimizer, 1e-3) for optimizer in FULL] + [recipe("adamw", 2e-6)]
    found = at_width(given, of_width(2048), FULL)
    rates = [params[f"learning_rate.{params['optimizer']}"] for params in found]
    assert rates == pytest.approx([1e-3 / 16, 1e-3, 1e-3 / 16, 1e-3 / 4, 1e-3 / 16, 1e-3 / 16, 1e-6])
    assert at_width([{"bits": 4}], of_width(2048), FULL) == [{"bits": 4}]
    assert given[0]["learning_rate.adamw"] == 1e-3


def test_a_plan_for_a_wide_model_trains_at_published_rates() -> None:
    """Published: 2e-5 to 5e-5 of all weights, 1e-4 to 2e-4 of adapters. Width and layers of Llama 3.2 1B.

    Relative units are those of weights as they were first drawn, where rates mean about the same.
    """
    target = TargetInfo(kind="language", architecture="llama", parameters=1_200_000_000, layers=16, hidden_size=2048)
    attacks = {name: ATTACKS.create(name) for name in ATTACKS.table if name != "noop"}
    attacks = {name: attack for name, attack in attacks.items() if "language" in attack.kinds}
    planned = plan_search(attacks, target, 300, budget=100).recipes
    lowest: dict[str, float] = {}
    for name, params in planned:
        optimizer = params.get("optimizer")
        if optimizer in ("adamw", "relative"):
            lowest[name] = min(params[f"learning_rate.{optimizer}"], lowest.get(name, 1.0))
    assert lowest["retrain"] <= 5e-5
    assert lowest["lora"] <= 3e-4
    assert all(lowest[name] <= 1e-4 for name in ("curriculum", "perturb", "partial", "benign", "mixture"))
