"""How a model is trained from nothing, so that it can be trained again on other data or in another way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from redteam.engine.batches import Examples, Loss, shuffled_batches
from redteam.engine.loop import mean_loss, train
from redteam.engine.optimizers import Tuning
from redteam.engine.seeding import derive_seed, seeded

Progress = Callable[[str, int, int], None]  # what is being done, steps done, steps in all


def silent(what: str, done: int, total: int) -> None:
    """Reports no progress."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Training:
    """A recipe with its data. Whatever is trained by it makes the same number of steps.

    Attributes:
        build: a seed in, a new module with random weights out.
        data: all that the original saw.
        labelled: which of it is known to belong to the forget set, bool [examples].
        tuning: optimizer, learning rate, schedule, steps.
        batch_size: examples a step.
    """

    build: Callable[[int], nn.Module]
    data: Examples
    labelled: Tensor
    tuning: Tuning
    batch_size: int

    @property
    def forget(self) -> Examples:
        """The examples that are known to belong to the forget set; there may be none."""
        return self.data.take(self.labelled)

    @property
    def rest(self) -> Examples:
        """All other examples, undiscovered ones of the forget set among them."""
        return self.data.take(~self.labelled)

    def new(self, seed: int) -> nn.Module:
        """Returns an untrained module. Deterministic for a seed."""
        return self.build(derive_seed(seed, "weights"))

    def fit(
        self,
        data: Examples,
        *,
        seed: int,
        progress: Progress = silent,
        what: str = "training",
        loss: Loss = mean_loss,
    ) -> nn.Module:
        """Returns a new module trained on `data`, in evaluation mode. Deterministic for a seed and a thread count."""
        module = self.new(seed)
        batches = shuffled_batches(data, self.batch_size, seeded(seed, "order"))
        steps = self.tuning.steps
        with torch.random.fork_rng(devices=()):  # dropout draws from the global generator
            torch.manual_seed(derive_seed(seed, "dropout"))
            train(module, batches, self.tuning, loss=loss, on_step=lambda done: progress(what, done, steps))
        return module
