"""What may follow a method: a little fine-tuning, on what must stay or on the training distribution."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from redteam.engine.batches import Examples, ordered_batches, shuffled_batches
from redteam.engine.cost import Ledger
from redteam.engine.loop import fine_tune
from redteam.engine.optimizers import Tuning
from redteam.engine.seeding import seeded
from redteam.engine.training import Progress, silent
from redteam.errors import InputError

HELD_OUT = 0.2
Then = Literal["retain", "mixture"]


@dataclass(frozen=True, kw_only=True, slots=True)
class FollowUp:
    """Light-touch fine-tuning; what is kept is the step with the lowest loss on a held-out fifth of its data.

    Source: Cloud et al. 2024, Gradient Routing (arXiv 2410.04332), appendix on TinyStories: 64 retain stories, full
    batch, at most 40 steps, the best on held-out retain stories. The learning rate there is 5e-5; models as small as
    the testbeds' hardly move at that, so the default is higher.

    Attributes:
        steps: optimizer steps.
        learning_rate: of AdamW.
        batch_size: examples a step.
        version: raised with every change that could move a number.
    """

    steps: int = 30
    learning_rate: float = 3e-4
    batch_size: int = 64

    version = 1

    def apply(self, module: nn.Module, data: Examples, *, seed: int, progress: Progress = silent) -> nn.Module:
        """Returns a fine-tuned copy. Deterministic for a seed and a thread count.

        Raises:
            InputError: there are fewer than two examples.
            Diverged: a loss is not finite.
        """
        if len(data) < 2:
            raise InputError("there are too few examples to fine-tune on and to hold out", "Give two at least")
        order = torch.randperm(len(data), generator=seeded(seed, "then", "held out"))
        cut = max(1, round(HELD_OUT * len(data)))
        held_out, shown = data.take(order[:cut]), data.take(order[cut:])
        live = copy.deepcopy(module)
        best, kept = _loss(live, held_out), copy.deepcopy(live.state_dict())
        ledger = Ledger(parameters=sum(p.numel() for p in live.parameters()))
        tuning = Tuning(learning_rate=self.learning_rate, steps=self.steps)
        batches = shuffled_batches(shown, self.batch_size, seeded(seed, "then", "order"))
        live.train()
        for spent in fine_tune(live, batches, tuning, ledger):
            live.eval()
            value = _loss(live, held_out)
            if value < best:
                best, kept = value, copy.deepcopy(live.state_dict())
            live.train()
            progress("fine-tuning after it", spent.steps, self.steps)
        live.load_state_dict(kept)
        return live.eval()


@torch.no_grad()
def _loss(module: nn.Module, data: Examples) -> float:
    """Mean over examples of the loss of batches of 256."""
    parts = [(batch.samples, float(batch.loss(module))) for batch in ordered_batches(data, 256)]
    return sum(count * value for count, value in parts) / sum(count for count, _ in parts)
