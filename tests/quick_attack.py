"""An attack of the user's own, in a file: retraining for a few steps, so that whole runs fit into a test."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

from redteam.attacks.contract import Params, Suggest
from redteam.attacks.mixture import Mixture
from redteam.attacks.retrain import Retrain
from redteam.target import TargetInfo

FIXED = {"optimizer": "adamw", "weight_decay": 0.0, "schedule": "constant", "batch_size": 16, "loss": "answer"}


class Quick(Retrain):
    """Retrains for at most eight steps."""

    name = "quick"
    version = 1
    goal = "retraining for a few steps"
    paper = "none: for tests"

    def space(self, suggest: Suggest, target: TargetInfo, samples: int) -> Params:
        """Learning rate, steps, number of samples."""
        return {
            "learning_rate.adamw": suggest.suggest_float("learning_rate.adamw", 1e-5, 1e-2, log=True),
            "samples": suggest.suggest_int("samples", 1, samples, log=True),
            "steps": suggest.suggest_categorical("steps", [2, 4, 8]),
        }

    def recipes(self, target: TargetInfo, samples: int) -> Sequence[Params]:
        """Two learning rates."""
        return [{"learning_rate.adamw": rate, "samples": samples, "steps": 4} for rate in (1e-3, 1e-4)]

    def run(self, arena, params):
        """Trains as `retrain` does, once the test that watches lets it."""
        _hold()
        yield from super().run(arena, {**FIXED, **params})


class Mixed(Mixture):
    """Retrains among ten times as many retain items: a class that was never shown cannot be all that is said then."""

    name = "mixed"
    version = 1
    goal = "retraining among many retain items"
    paper = "none: for tests"

    def space(self, suggest: Suggest, target: TargetInfo, samples: int) -> Params:
        """Learning rate and steps."""
        return {
            "learning_rate.adamw": suggest.suggest_float("learning_rate.adamw", 1e-4, 3e-3, log=True),
            "steps": suggest.suggest_categorical("steps", [16, 64]),
        }

    def recipes(self, target: TargetInfo, samples: int) -> Sequence[Params]:
        """Two learning rates."""
        return [{"learning_rate.adamw": rate, "steps": 64} for rate in (1e-3, 3e-4)]

    def run(self, arena, params):
        """Trains as `mixture` does."""
        yield from super().run(arena, {**FIXED, "ratio": 10.0, "samples": len(arena.answers), **params})


def _hold() -> None:
    """Waits for ever once the log `HOLD_LOG` has `HOLD_EVENTS` lines: the run cannot end before it is stopped."""
    log = os.environ.get("HOLD_LOG")
    while log and Path(log).read_bytes().count(b"\n") >= int(os.environ["HOLD_EVENTS"]):
        time.sleep(0.01)


class Short(Quick):
    """Retrains for 48 steps: enough to undo what only hides, in a small world."""

    name = "short"
    goal = "retraining for 48 steps"

    def space(self, suggest: Suggest, target: TargetInfo, samples: int) -> Params:
        """The learning rate."""
        rate = suggest.suggest_float("learning_rate.adamw", 3e-4, 3e-3, log=True)
        return {"learning_rate.adamw": rate, "samples": samples, "steps": 48}

    def recipes(self, target: TargetInfo, samples: int) -> Sequence[Params]:
        """Two learning rates."""
        return [{"learning_rate.adamw": rate, "samples": samples, "steps": 48} for rate in (1e-3, 3e-3)]


class Feeble(Quick):
    """Retrains with a learning rate at which nothing moves far: an attack on the weights that is held off."""

    name = "feeble"
    goal = "retraining that comes to nothing"

    def space(self, suggest: Suggest, target: TargetInfo, samples: int) -> Params:
        """The learning rate."""
        rate = suggest.suggest_float("learning_rate.adamw", 1e-7, 1e-6, log=True)
        return {"learning_rate.adamw": rate, "samples": samples, "steps": 4}

    def recipes(self, target: TargetInfo, samples: int) -> Sequence[Params]:
        """One learning rate."""
        return [{"learning_rate.adamw": 1e-7, "samples": samples, "steps": 4}]
