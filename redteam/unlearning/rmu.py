"""RMU: representation misdirection for unlearning."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from redteam.engine.activations import captured, decoder_layers
from redteam.engine.batches import Batch, TokenSet, shuffled_batches
from redteam.engine.loop import train
from redteam.engine.optimizers import Tuning
from redteam.engine.seeding import seeded
from redteam.unlearning.contract import UnlearningTask


@dataclass(frozen=True, kw_only=True, slots=True)
class RMU:
    """Pushes a layer's state on forget text to a fixed random direction and holds it on retain text.

    L = MSE(h_l(x_f), u) + alpha * MSE(h_l(x_r), h_l(x_r; theta_0)) over non-padding tokens, with u = c * n * r / |r|,
    r ~ U[0, 1]^d drawn once and n the mean norm of the original's states on forget text. Only the MLP
    down-projections of layers l-2 to l move, selected by name.

    Source: Li et al. 2024, The WMDP Benchmark, section 4 (arXiv 2403.03218). There c is absolute (6.5 for a mean
    norm of about 3); here it is relative to the norm, so that one value fits models of any scale.

    Attributes:
        layer: l, counted from 0; negative counts from the last.
        steering: c, in multiples of the mean norm.
        alpha: weight of the retain term.
        learning_rate: of AdamW without weight decay.
        steps: optimizer steps.
        batch_size: forget sequences a step, and as many retain sequences.
    """

    layer: int = -1
    steering: float = 4.0
    alpha: float = 8.0
    learning_rate: float = 2e-3
    steps: int = 150
    batch_size: int = 64

    name = "rmu"
    version = 1
    goal = "steers a layer's states on forget text to noise, holds them on retain text"
    paper = "Li et al. 2024, The WMDP Benchmark (arXiv 2403.03218)"
    when = "post hoc"
    kinds = "language, classifier"
    touches = "the MLP down-projections of one layer and the two before it"
    cost = "a third of plain training"

    def apply(self, task: UnlearningTask) -> nn.Module:
        """Returns the unlearned copy."""
        names = decoder_layers(task.original)
        last = range(len(names))[self.layer]
        moved = tuple(f"{name}.mlp.down_proj" for name in names[max(0, last - 2) : last + 1])
        module = copy.deepcopy(task.original)
        direction = self._direction(task, names[last])
        retain = shuffled_batches(task.retain, self.batch_size, seeded(task.seed, "rmu", "retain"))

        def loss(live: nn.Module, forget: Batch) -> Tensor:
            kept = next(retain)
            with torch.no_grad():
                frozen = states(task.original, kept, names[last])
            steered = masked_mse(states(live, forget, names[last]), direction, forget)
            return steered + self.alpha * masked_mse(states(live, kept, names[last]), frozen, kept)

        tuning = Tuning(learning_rate=self.learning_rate, steps=self.steps)
        forget = shuffled_batches(task.forget, self.batch_size, seeded(task.seed, "rmu", "forget"))
        train(
            module,
            forget,
            tuning,
            loss=loss,
            only=lambda name: name.startswith(moved),
            on_step=lambda done: task.progress("unlearning (rmu)", done, self.steps),
        )
        return module

    def _direction(self, task: UnlearningTask, layer: str) -> Tensor:
        """Returns u, float32 [hidden]."""
        with torch.no_grad():
            sample = head(task.forget, 64)
            norms = states(task.original, sample, layer).norm(dim=-1)
        present = norms if sample.mask is None else norms[sample.mask.bool()]
        drawn = torch.rand(_hidden(task.original), generator=seeded(task.seed, "rmu", "direction"))
        direction: Tensor = drawn * (self.steering * present.mean() / drawn.norm())
        return direction


def head(data: TokenSet, count: int) -> Batch:
    """Returns the first `count` sequences as one batch."""
    return data.batch(slice(0, count))


def states(module: nn.Module, batch: Batch, layer: str) -> Tensor:
    """Returns the output of `layer`, [sequences, length, hidden]."""
    with captured(module, (layer,)) as kept:
        module(input_ids=batch.input_ids, attention_mask=batch.mask, use_cache=False)
    return kept[layer]


def masked_mse(left: Tensor, right: Tensor, batch: Batch) -> Tensor:
    """Mean squared difference over the entries of non-padding tokens. A scalar."""
    squared = (left - right).square().mean(dim=-1)
    if batch.mask is None:
        return squared.mean()
    return (squared * batch.mask).sum() / batch.mask.sum()


def _hidden(module: nn.Module) -> int:
    config: Any = module.config
    return int(config.hidden_size)
