"""The attack that does nothing. A control: an evaluation that cannot tell it from an attack is worthless."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from redteam.attacks.contract import Access, Arena, Params, Suggest
from redteam.engine.cost import Spent
from redteam.target import TargetInfo


class NoOp:
    """Spends steps and changes nothing. A run with it alone must end INCONCLUSIVE, whatever the target."""

    name = "noop"
    version = 1
    goal = "control: changes nothing, so no verdict may rest on it"
    paper = "none: a negative control"
    access = Access.WEIGHTS
    kinds = "language, classifier"

    def space(self, suggest: Suggest, target: TargetInfo, samples: int) -> Params:
        """The number of steps to idle."""
        return {"steps": suggest.suggest_int("steps", 1, 4)}

    def recipes(self, target: TargetInfo, samples: int) -> Sequence[Params]:
        """Two idle steps."""
        return [{"steps": 2}]

    def run(self, arena: Arena, params: Params) -> Iterator[Spent]:
        """Yields steps without taking any."""
        for step in range(params["steps"]):
            yield Spent(steps=step + 1)
