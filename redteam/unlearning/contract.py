"""What an unlearning method is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import nn

from redteam.engine.batches import TokenSet

Progress = Callable[[str, int, int], None]  # what is being done, steps done, steps in all


def silent(what: str, done: int, total: int) -> None:
    """Reports no progress."""


@dataclass(frozen=True, kw_only=True, slots=True)
class UnlearningTask:
    """All that a method gets.

    Attributes:
        original: the trained model, in evaluation mode; never changed.
        forget: what to remove, loss on the answers.
        retain: what must stay, loss on the answers.
        known: how much of the forget set a module still shows, by the capability's own scorer and corrected for
            chance: 1 is all of it, 0 is guessing.
        train_without: trains a new model by the recipe that made the original, on all of its data but the forget
            set, from a seed; None where no such recipe is known.
        seed: of the method.
        progress: hears how far it has come.
    """

    original: nn.Module
    forget: TokenSet
    retain: TokenSet
    known: Callable[[nn.Module], float]
    train_without: Callable[[int, Progress], nn.Module] | None
    seed: int
    progress: Progress = silent


class Method(Protocol):
    """An unlearning method. Its class attributes are what `redteam list methods` shows.

    Attributes:
        name: unique, lower case.
        version: raised with every change that could move a number.
        goal: one line.
        paper: where it was published.
    """

    name: str
    version: int
    goal: str
    paper: str

    def apply(self, task: UnlearningTask) -> nn.Module:
        """Returns a new module; the original's weights stay bit-identical. Deterministic for a seed."""
