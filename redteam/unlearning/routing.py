"""Expand, route, ablate: gradient routing throughout training, into hidden units that are cut off at the end."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from redteam.engine.batches import AnyBatch, LabelledSet, Loss, shuffled_batches
from redteam.engine.blocks import Block, ablate, expand, mlp_blocks
from redteam.engine.loop import train
from redteam.engine.routing import labelled_positions, routed, unit_multipliers
from redteam.engine.seeding import derive_seed, seeded
from redteam.errors import InputError
from redteam.unlearning.contract import Training, UnlearningTask
from redteam.unlearning.stages import FollowUp

POSITIONS = ("sequence", "loss")


@dataclass(frozen=True, kw_only=True, slots=True)
class Routing:
    """Trains from nothing with extra MLP units; labelled forget examples train these, and are then gone with them.

    Where a labelled example is seen, gradients through the post-activations of the chosen blocks are multiplied by 1
    at the extra units and by `original_multiplier` at all others; every other example, an undiscovered forget example
    too, has 1 everywhere. The loss is cross-entropy + l1 * sum over blocks of |z|_1 per token, z the post-activations.
    Nothing but the labels decides what is routed where.

    Source: Cloud et al. 2024, Gradient Routing, section 4.2 and its appendix (arXiv 2410.04332). The optimizer, its
    schedule and the number of steps are those of the original; blocks that are not routed are not expanded.

    Attributes:
        extra: units added to each block.
        original_multiplier: of a forget example's gradient at the original units: -0.75 as published drives them away
            from it, 0 only keeps it out.
        blocks: pattern of the MLP blocks that are expanded and routed ("model.layers.0.mlp").
        positions: "sequence" routes all of a labelled sequence, "loss" only where a token with a loss is predicted.
        l1: weight of the penalty.
        coherence_steps: of fine-tuning on a few retain examples after the ablation; 0 for none.
        coherence_examples: how many.
        coherence_learning_rate: of AdamW.
    """

    extra: int = 64
    original_multiplier: float = -0.75
    blocks: str = "*"
    positions: str = "sequence"
    l1: float = 1e-4
    coherence_steps: int = 40
    coherence_examples: int = 64
    coherence_learning_rate: float = 3e-4

    name = "routing"
    version = 1
    goal = "routes what forget examples teach into extra units, then cuts these off (expand, route, ablate)"
    paper = "Cloud et al. 2024, Gradient Routing (arXiv 2410.04332)"
    when = "training"
    kinds = "language, classifier"
    touches = "every weight, from nothing"
    cost = "one plain training of a slightly wider model"

    def apply(self, task: UnlearningTask) -> nn.Module:
        """Trains a new model.

        Raises:
            InputError: no recipe of the original is known, the model has no such MLP block, or an option is none.
        """
        training = task.require_training()
        seed = derive_seed(task.seed, "routing")
        module = training.new(seed)
        blocks = self.look_up(module, training.data.batch(slice(0, 2)))
        wide = expand(module, blocks, self.extra, seeded(seed, "extra units"))
        steps = training.tuning.steps
        with torch.random.fork_rng(devices=()):  # dropout draws from the global generator
            torch.manual_seed(derive_seed(seed, "dropout"))
            train(
                module,
                shuffled_batches(training.data, training.batch_size, seeded(seed, "order")),
                training.tuning,
                loss=self._loss(wide, training, seed),
                on_step=lambda done: task.progress("training with routed gradients", done, steps),
            )
        ablate(module, wide, self.extra)
        return self._coherent(module, task, seed)

    def look_up(self, module: nn.Module, batch: AnyBatch) -> tuple[Block, ...]:
        """Returns the MLP blocks that are expanded.

        Raises:
            InputError: the model has none of that name, or `positions` is none.
        """
        if self.positions not in POSITIONS:
            raise InputError(f"positions of the method routing is {self.positions!r}", f"Give {' or '.join(POSITIONS)}")
        return mlp_blocks(module, self.blocks)

    def _loss(self, wide: Sequence[Block], training: Training, seed: int) -> Loss:
        """Returns the loss under routing; it has to be called once for each batch, in their order."""
        # The same draws over as many examples give the same rows: a batch of labels for each batch of examples.
        marks = LabelledSet(torch.empty(len(training.data), 0), training.labelled)
        marked = shuffled_batches(marks, training.batch_size, seeded(seed, "order"))
        rows = {block.down: self._on_forget(block.width) for block in wide}

        def loss(live: nn.Module, batch: AnyBatch) -> Tensor:
            forget = labelled_positions(batch, next(marked).labels, self.positions)
            with routed(live, {down: unit_multipliers(forget, row) for down, row in rows.items()}) as activations:
                value = batch.loss(live)
            if self.l1 > 0:
                value = value + self.l1 * penalty(batch, activations.values())
            return value

        return loss

    def _on_forget(self, width: int) -> Tensor:
        """Returns the multipliers of a labelled example, float32 [units]."""
        row = torch.full((width,), self.original_multiplier)
        row[width - self.extra :] = 1
        return row

    def _coherent(self, module: nn.Module, task: UnlearningTask, seed: int) -> nn.Module:
        if self.coherence_steps == 0 or len(task.retain) < 2:
            return module
        chosen = torch.randperm(len(task.retain), generator=seeded(seed, "coherence"))[: self.coherence_examples]
        stage = FollowUp(
            steps=self.coherence_steps,
            learning_rate=self.coherence_learning_rate,
            batch_size=self.coherence_examples,
        )
        return stage.apply(module, task.retain.take(chosen), seed=seed, progress=task.progress)


def penalty(batch: AnyBatch, activations: Iterable[Tensor]) -> Tensor:
    """Returns the sum over blocks of the L1 norm of the post-activations, as a mean over real tokens. A scalar."""
    total = torch.zeros(())
    for values in activations:
        total = total + values[batch.real].abs().sum(dim=-1).mean()
    return total
