"""Data filtering: the model that never saw the forget set. The gold standard."""

from __future__ import annotations

from torch import nn

from redteam.engine.seeding import derive_seed
from redteam.errors import InputError
from redteam.unlearning.contract import UnlearningTask


class Filtered:
    """Trains from scratch on everything else, by the original's recipe and number of steps.

    As a target it is a negative control: nothing can be recovered, and whatever an attack on it reaches was taught
    by the attack. Its seed differs from that of the reference beside it, so the two are independent models.
    """

    name = "filtered"
    version = 1
    goal = "trains on everything but the forget set: the model that never knew"
    paper = "the retrained gold standard of every unlearning paper; O'Brien et al. 2025, Deep Ignorance"

    def apply(self, task: UnlearningTask) -> nn.Module:
        """Trains a new model.

        Raises:
            InputError: no recipe of the original is known.
        """
        if task.train_without is None:
            raise InputError("how this model was trained is not known", "Use a method that works on a trained model")
        return task.train_without(derive_seed(task.seed, "filtered"), task.progress)
