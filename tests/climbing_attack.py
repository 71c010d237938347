"""Attacks whose curves are known: they lift what was lowered by a little at every step, or all at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from redteam import Access, Arena, Params, Spent, Suggest, TargetInfo


class Climb:
    """Adds a little to the outputs of the forgotten classes at every step."""

    name = "climb"
    version = 1
    goal = "lifts outputs step by step"
    paper = "none: for tests"
    access = Access.WEIGHTS
    kinds = "classifier"
    each = 0.25

    def space(self, suggest: Suggest, target: TargetInfo, samples: int) -> Params:
        """How much, nearly the same always; steps."""
        size = suggest.suggest_float("size", 0.99, 1.01)
        return {"size": size, "steps": suggest.suggest_categorical("steps", [4, 8])}

    def recipes(self, target: TargetInfo, samples: int) -> Sequence[Params]:
        """Two lengths."""
        return [{"size": 1.0, "steps": steps} for steps in (8, 4)]

    def run(self, arena: Arena, params: Params) -> Iterator[Spent]:
        """Lifts them."""
        bias: Any = [weight for name, weight in arena.module.named_parameters() if name.endswith("bias")][-1]
        for step in range(params["steps"]):
            with torch.no_grad():
                bias[:2] += params["size"] * self.lift(step)
            yield arena.ledger.charge_edit()

    def lift(self, step: int) -> float:
        """How much at a step."""
        return self.each


class Leap(Climb):
    """Adds all of it in the first step."""

    name = "leap"

    def lift(self, step: int) -> float:
        """All at the first one."""
        return 2.0 if step == 0 else 0.0
