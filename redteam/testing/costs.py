"""What an attack says that it has spent."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from redteam.attacks.contract import Arena, Attack
from redteam.engine.cost import Spent
from redteam.testing.exercise import Exercise, follow, worlds
from redteam.testing.promise import BrokenPromise

COUNTED = ("samples", "tokens", "flops")


def steps_rise(attack: Attack, exercise: Exercise | None = None) -> None:
    """What it yields is cumulative: steps rise, and no cost falls."""
    for setting, how in worlds(attack, exercise):
        for before, now in pairwise([Spent(), *follow(attack, setting, how).spent]):
            if not now.steps > before.steps:
                raise BrokenPromise(
                    f"it says that it has made {now.steps} steps after {before.steps}",
                    "Count all steps since the start",
                )
            for cost in COUNTED:
                if not getattr(now, cost) >= getattr(before, cost):
                    raise BrokenPromise(
                        f"its {cost} go from {getattr(before, cost):g} to {getattr(now, cost):g}",
                        "Tell what was spent since the start",
                    )


def charges_its_training(attack: Attack, exercise: Exercise | None = None) -> None:
    """Where an optimizer of torch makes steps, it tells of as many, and of samples, tokens and FLOPs."""
    for setting, how in worlds(attack, exercise):
        made = [0]
        with _counted_optimizers() as optimizers:

            def note(arena: Arena, made: list[int] = made, optimizers: _Optimizers = optimizers) -> None:
                made.append(optimizers.steps)

            spent = [Spent(), *follow(attack, setting, how, each=note).spent]
        for (before, now), (first, last) in zip(pairwise(spent), pairwise(made), strict=True):
            free = [cost for cost in COUNTED if getattr(now, cost) <= getattr(before, cost)]
            if last > first and free:
                raise BrokenPromise(
                    f"it trains and charges no {', no '.join(free)}",
                    "Train through `arena.fine_tune`, or charge `arena.ledger` for every step",
                )
            if last - first > now.steps - before.steps:
                raise BrokenPromise(
                    f"its optimizers make {last - first} steps where it tells of {now.steps - before.steps}",
                    "Count every step of an optimizer",
                )


class _Optimizers:
    """Counts the steps of optimizers; one that works through others counts once.

    Attributes:
        steps: that were begun.
    """

    def __init__(self) -> None:
        self.steps = self._inside = 0

    def begin(self, *given: Any) -> None:
        """Is called before every step."""
        self.steps += self._inside == 0
        self._inside += 1

    def end(self, *given: Any) -> None:
        """Is called after every step."""
        self._inside -= 1


@contextmanager
def _counted_optimizers() -> Iterator[_Optimizers]:
    """While open, counts the steps of all optimizers of the process."""
    counted = _Optimizers()
    with register_optimizer_step_pre_hook(counted.begin), register_optimizer_step_post_hook(counted.end):
        yield counted
