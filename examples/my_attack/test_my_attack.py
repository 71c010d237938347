"""The attack keeps the promises of every attack, and one of its own. Run it with `pytest examples/my_attack`."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from my_attack import Vectors

from redteam.testing import PROMISES, check_attack
from redteam.testing.exercise import Exercise, follow
from redteam.testing.worlds import KINDS, open_world

QUICK = {"learning_rate": 1e-2, "samples": 12, "steps": 4}


def test_all_promises() -> None:
    """One call, one report of all that does not hold."""
    check_attack(Vectors())


@pytest.mark.parametrize("promise", PROMISES)
def test_each_promise(promise: str) -> None:
    """The same, one test for each promise, and faster: with parameters for a tiny model."""
    PROMISES[promise](Vectors(), Exercise(params=QUICK))


@pytest.mark.parametrize("kind", KINDS)
def test_no_matrix_moves(kind: str) -> None:
    """What is special about this attack."""
    setting = open_world(kind)
    module: Any = setting.target.module
    follow(Vectors(), setting, Exercise(params=QUICK))
    released = setting.released.arrays
    moved = {name for name, weights in module.named_parameters() if not torch.equal(weights, released[name])}
    assert moved == {name for name, weights in module.named_parameters() if weights.ndim == 1}
