"""Which families of attacks the adaptive part of a search goes on with."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

ANY = 3


@dataclass(frozen=True, slots=True)
class Standing:
    """How a family has done so far.

    Attributes:
        trials: run, failed ones among them.
        values: what those that did not fail achieved; below the utility floor less by what utility lacks.
    """

    trials: int = 0
    values: tuple[float, ...] = field(default=())

    def after(self, value: float | None) -> Standing:
        """Returns the standing after one more trial; None where it failed."""
        return Standing(self.trials + 1, self.values if value is None else (*self.values, value))


def next_families(standings: Mapping[str, Standing], share: int, adaptive: int) -> tuple[str, ...]:
    """Returns the families that the next trial may go to.

    As long as one has had fewer trials than its guaranteed share, that is the one with the fewest. After that all
    that can still win, see `contenders`; but every `ANY`-th trial may go to any: what looks beaten after a few trials
    may only have been set badly.

    Args:
        standings: of every family.
        share: trials that every family gets.
        adaptive: number of the trial, counted from 0 in the adaptive part.
    """
    fewest = min(standings.values(), key=lambda standing: standing.trials).trials
    if fewest < share:
        return tuple(name for name, standing in standings.items() if standing.trials == fewest)[:1]
    return tuple(standings) if adaptive % ANY == ANY - 1 else contenders(standings)


def contenders(standings: Mapping[str, Standing]) -> tuple[str, ...]:
    """Returns the families that can still win: whose best value, with some optimism, reaches the best of all.

    A family is out once best_f + s sqrt(2 ln N / n_f) < best of all, with n_f of N trials and s the standard deviation
    of all values: the bonus of UCB1 (Auer et al. 2002), on the best value instead of the mean, since a search is
    after the best. One that never gave a value is out.
    """
    best = {name: max(standing.values) for name, standing in standings.items() if standing.values}
    if not best:
        return tuple(standings)
    spread = float(np.std([value for standing in standings.values() for value in standing.values]))
    trials, leader = sum(standing.trials for standing in standings.values()), max(best.values())
    return tuple(
        name
        for name in best
        if best[name] + spread * math.sqrt(2 * math.log(trials) / standings[name].trials) >= leader
    )
