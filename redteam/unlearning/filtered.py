"""Data filtering: the model that never saw the forget set. The gold standard."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from redteam.engine.seeding import derive_seed
from redteam.unlearning.contract import UnlearningTask


@dataclass(frozen=True, kw_only=True, slots=True)
class Filtered:
    """Trains from nothing on all but the labelled forget examples, by the original's recipe and number of steps.

    With full labels it is a negative control: nothing can be recovered, and whatever an attack on it reaches was
    taught by the attack. Its seed differs from that of the reference beside it, so the two are independent models.
    """

    name = "filtered"
    version = 2
    goal = "trains on everything but the forget set: the model that never knew"
    paper = "the retrained gold standard of every unlearning paper; O'Brien et al. 2025, Deep Ignorance"
    when = "training"
    kinds = "language, classifier"
    touches = "every weight, from nothing"
    cost = "one plain training"

    def apply(self, task: UnlearningTask) -> nn.Module:
        """Trains a new model.

        Raises:
            InputError: no recipe of the original is known.
        """
        training = task.require_training()
        seed = derive_seed(task.seed, "filtered")
        what = "training without the forget set"
        return training.fit(training.rest, seed=seed, progress=task.progress, what=what)
