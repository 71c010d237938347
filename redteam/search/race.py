"""Which families of attacks the adaptive part of a search goes on with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np


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


def next_families(standings: Mapping[str, Standing], share: int) -> tuple[str, ...]:
    """Returns the families that the next trial may go to.

    As long as one has had fewer trials than its guaranteed share, that is the one with the fewest. After that all
    that can still win, see `contenders`.

    Args:
        standings: of every family.
        share: trials that every family gets.
    """
    fewest = min(standings.values(), key=lambda standing: standing.trials).trials
    if fewest < share:
        return tuple(name for name, standing in standings.items() if standing.trials == fewest)[:1]
    return contenders(standings)


def contenders(standings: Mapping[str, Standing]) -> tuple[str, ...]:
    """Returns the families that can still win: those whose best value is within their own spread of the leader's.

    A family is out once best + spread < best of all, with the sample standard deviation of its values as its spread:
    it would have to do better, by more than its settings have differed so far, than it ever did. One that never gave a
    value is out; one that gave a single value has shown no spread yet, and is not.
    """
    best = {name: max(standing.values) for name, standing in standings.items() if standing.values}
    if not best:
        return tuple(standings)
    leader = max(best.values())
    return tuple(name for name in best if best[name] + _spread(standings[name].values) >= leader)


def _spread(values: Sequence[float]) -> float:
    return float(np.std(values, ddof=1)) if len(values) > 1 else np.inf
