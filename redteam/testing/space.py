"""What an attack searches over, and the settings that it knows to be good."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from redteam.attacks.contract import Attack, Params
from redteam.target import TargetInfo
from redteam.testing.exercise import Exercise, worlds
from redteam.testing.promise import BrokenPromise, answer
from redteam.testing.suggest import Drawn, Told

SIZES = (1, 2, 7, 40, 300)  # of the attack split: a space must not be empty for a small one, nor a recipe outside it
DRAWS = 40
PLAIN = (bool, int, float, str)


def proposes_parameters(attack: Attack, exercise: Exercise | None = None) -> None:
    """For an attack split of any size it returns what was suggested under the names it asked for; JSON can keep it."""
    for target, samples in _asked(attack, exercise):
        for seed in range(DRAWS):
            proposed, drawn = drawn_from(attack, target, samples, seed)
            if sorted(proposed) != sorted(drawn.names):
                raise BrokenPromise(
                    f"space asks for {sorted(drawn.names)} and returns {sorted(proposed)} ({samples} attack items)",
                    "Return what was suggested under the names it was asked for; constants belong into `run`",
                )
            if dict(proposed) != drawn.given:
                changed = sorted(name for name in drawn.given if proposed[name] != drawn.given[name])
                raise BrokenPromise(
                    f"space returns another value of {changed} than was suggested", "Compute with it in `run` instead"
                )
            _storable("space", proposed)


def recipes_lie_within_the_space(attack: Attack, exercise: Exercise | None = None) -> None:
    """For an attack split of any size: a recipe is what the space could have proposed, and JSON can keep it."""
    for target, samples in _asked(attack, exercise):
        recipes = _recipes(attack, target, samples)
        if not recipes:
            raise BrokenPromise(
                f"recipes returns none ({samples} attack items)", "Return one known-good setting at least"
            )
        for recipe in recipes:
            told = Told(recipe)
            answer("space", attack.space, told, target, samples)
            more = sorted(recipe.keys() - told.names)
            if more:
                raise BrokenPromise(f"a recipe has {more}, which the space does not ask for", "Let one fit the other")
            _storable("a recipe", recipe)


def recipes_differ(attack: Attack, exercise: Exercise | None = None) -> None:
    """Each recipe is there once, where the attack split is not tiny, and they are the same when asked again."""
    for target, samples in _asked(attack, exercise):
        recipes = [_written(recipe) for recipe in _recipes(attack, target, samples)]
        if recipes != [_written(recipe) for recipe in _recipes(attack, target, samples)]:
            raise BrokenPromise("recipes returns others when it is asked again", "Return constants")
        twice = sorted(recipe for recipe in set(recipes) if recipes.count(recipe) > 1)
        if twice and samples >= SIZES[2]:
            raise BrokenPromise(f"recipes returns {twice[0]} twice ({samples} attack items)", "Return it once")


def drawn_from(attack: Attack, target: TargetInfo, samples: int, seed: int) -> tuple[Params, Drawn]:
    """Returns parameters that the space proposes, values drawn by chance, and what was drawn.

    Raises:
        BrokenPromise: it raised, asks for the impossible, or returns no mapping.
    """
    drawn = Drawn(seed)
    proposed = answer("space", attack.space, drawn, target, samples)
    if not isinstance(proposed, Mapping):
        raise BrokenPromise(f"space returns a {type(proposed).__name__}", "Return a dict: name -> value")
    return proposed, drawn


def _asked(attack: Attack, exercise: Exercise | None) -> Iterator[tuple[TargetInfo, int]]:
    for setting, _ in worlds(attack, exercise):
        for samples in SIZES:
            yield setting.target.info, samples


def _recipes(attack: Attack, target: TargetInfo, samples: int) -> Sequence[Params]:
    recipes = [*answer("recipes", attack.recipes, target, samples)]
    for recipe in recipes:
        if not isinstance(recipe, Mapping):
            raise BrokenPromise(f"a recipe is a {type(recipe).__name__}", "Make it a dict: name -> value")
    return recipes


def _written(recipe: Params) -> str:
    return json.dumps(dict(recipe), sort_keys=True, default=repr)


def _storable(what: str, params: Mapping[str, Any]) -> None:
    """Refuses what the evidence cannot store and give back."""
    for name, value in params.items():
        if value is None:
            continue
        if type(value) not in PLAIN or (isinstance(value, float) and not math.isfinite(value)):
            raise BrokenPromise(
                f"{what} has {name}={value!r}, a {type(value).__name__}", "Use finite numbers, texts, booleans and None"
            )
