"""What an unlearning method is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import nn

from redteam.engine.batches import Examples
from redteam.engine.training import Progress, Training, silent
from redteam.errors import InputError

__all__ = ["Method", "Progress", "Training", "UnlearningTask", "silent"]


@dataclass(frozen=True, kw_only=True, slots=True)
class UnlearningTask:
    """All that a method gets.

    Attributes:
        original: the trained model, in evaluation mode; never changed.
        forget: what is known to have to go: the labelled part of the forget set, with the loss on what is to be
            forgotten. A method that trains from nothing may find it empty; for all others it is not.
        retain: what must stay. Forget examples that nobody labelled are mixed into it, as they would be in earnest.
        known: how much of the forget set a module still shows, by the capability's own scorer and corrected for
            chance: 1 is all of it, 0 is guessing.
        training: how the original was trained, and on what; None where that is not known.
        seed: of the method.
        progress: hears how far it has come.
    """

    original: nn.Module
    forget: Examples
    retain: Examples
    known: Callable[[nn.Module], float]
    training: Training | None
    seed: int
    progress: Progress = silent

    def require_training(self) -> Training:
        """Returns how the original was trained.

        Raises:
            InputError: that is not known.
        """
        if self.training is None:
            raise InputError("how this model was trained is not known", "Use a method that works on a trained model")
        return self.training


class Method(Protocol):
    """An unlearning method: a frozen dataclass whose fields are its options.

    Its class attributes are what `redteam list methods` and `redteam show` print.

    Attributes:
        name: unique, lower case.
        version: raised with every change that could move a number.
        goal: one line.
        paper: where it was published.
        when: "training" (acts throughout training, from nothing), "post hoc" (acts on a trained model) or "control".
        kinds: what it works on: "language", "classifier", or "language, classifier".
        touches: which weights it moves, one line.
        cost: what it takes, one line, in units of plain training.

    A method that applies others names them in `uses`: a change of theirs is a change of its own.

    One whose options name parts of a module has `look_up(module, batch)`, which finds them and raises InputError where
    there are none. It is called before any work, on an untrained module that is then thrown away.
    """

    name: str
    version: int
    goal: str
    paper: str
    when: str
    kinds: str
    touches: str
    cost: str

    def apply(self, task: UnlearningTask) -> nn.Module:
        """Returns a new module in evaluation mode; the original's weights stay bit-identical.

        Deterministic for a seed and a thread count. It leaves torch's global random generator as it was.

        Raises:
            InputError: the method does not fit this model, or an option names what the model lacks.
            Diverged: a loss is not finite.
        """
