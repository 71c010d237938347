"""What the best trials so far suggest: the same configuration with a few parameters changed.

TPE models what many trials say of a family's parameters. With a handful of trials in ten dimensions it has little to
say, and a recipe that works is best improved a step at a time, as an evolution strategy does.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

CHANGED = 0.3  # share of the parameters that are changed
STEP = 0.15  # standard deviation of a step, in units of the parameter's range (of its logarithm where it has one)

Rated = tuple[float, Mapping[str, Any], Mapping[str, BaseDistribution]]  # what it achieved, parameters, their ranges


def vary(tried: Sequence[Rated], seed: int, kept: str) -> dict[str, Any] | None:
    """Returns a variation of one of the best trials, drawn by the seed: the better, the likelier.

    Args:
        tried: what each trial achieved, with its parameters and their ranges.
        seed: of the draw.
        kept: a parameter that stays: which family it is.

    Returns:
        Parameters; None if no trial was rated, or the one that was drawn has nothing to change.
    """
    rng = random.Random(seed)
    ranked = sorted(tried, key=lambda row: -row[0])
    if not ranked:
        return None
    _, params, ranges = ranked[min(int(rng.expovariate(1.0)), len(ranked) - 1)]
    names = [name for name in params if name != kept]
    if not names:
        return None
    changed = {name for name in names if rng.random() < CHANGED} or {rng.choice(names)}
    return {name: _changed(ranges[name], value, rng) if name in changed else value for name, value in params.items()}


def _changed(within: BaseDistribution, value: Any, rng: random.Random) -> Any:
    """Returns another value near this one; of a choice, any other."""
    if isinstance(within, CategoricalDistribution):
        return rng.choice([choice for choice in within.choices if choice != value] or [value])
    if not isinstance(within, FloatDistribution | IntDistribution):
        return value
    scale, back = (math.log, math.exp) if within.log else (float, float)
    low, high = scale(within.low), scale(within.high)
    place = scale(value) + rng.gauss(0, STEP) * (high - low)
    moved = within.low if place <= low else within.high if place >= high else back(place)
    return round(moved) if isinstance(within, IntDistribution) else moved
