"""Whether an attack is a function of its parameters and its seed."""

from __future__ import annotations

import torch
from torch import Tensor

from redteam.attacks.contract import Arena, Attack
from redteam.capabilities.scorers.contract import NotFinite
from redteam.setting import Setting
from redteam.testing.exercise import Exercise, follow, worlds
from redteam.testing.promise import BrokenPromise
from redteam.trial import rewrite_of


def is_the_same_for_a_seed(attack: Attack, exercise: Exercise | None = None) -> None:
    """Run twice with one seed it does the same at every step, bit for bit."""
    for (setting, how), (again, _) in zip(worlds(attack, exercise), worlds(attack, exercise), strict=True):
        first, second = _course(attack, setting, how), _course(attack, again, how)
        for what, values in first.items():
            if not _equal(values, second[what]):
                raise BrokenPromise(
                    f"run again with the same seed it has other {what}",
                    "Draw from `redteam.engine.seeding.seeded(arena.seed, ...)`, and keep no state on the attack",
                )


def _course(attack: Attack, setting: Setting, how: Exercise) -> dict[str, list[object]]:
    """Returns what can be seen of an attack: what it spent, its losses, and weights and outputs after every step."""
    weights: list[object] = []
    outputs: list[object] = []

    def look(arena: Arena) -> None:
        module = arena.module
        weights.extend(parameter.detach().clone() for parameter in module.parameters())
        module.eval()
        try:
            outputs.append(setting.asked("select", rewrite_of(arena)).table(module))
        except NotFinite:
            outputs.append("not finite")

    course = follow(attack, setting, how, each=look)
    return {"costs": [*course.spent], "losses": [*course.arena.ledger.losses], "weights": weights, "outputs": outputs}


def _equal(left: list[object], right: list[object]) -> bool:
    return len(left) == len(right) and all(map(_alike, left, right))


def _alike(left: object, right: object) -> bool:
    if isinstance(left, Tensor) and isinstance(right, Tensor):
        return left.shape == right.shape and torch.equal(left.nan_to_num(), right.nan_to_num())
    return type(left) is type(right) and left == right
