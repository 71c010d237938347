"""Training on a batch to forget and a batch to keep at every step: what most post hoc methods share."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from redteam.engine.batches import AnyBatch, Predictions, shuffled_batches
from redteam.engine.cost import Ledger
from redteam.engine.loop import fine_tune
from redteam.engine.optimizers import Tuning
from redteam.engine.seeding import derive_seed, seeded
from redteam.unlearning.contract import UnlearningTask

PairLoss = Callable[[nn.Module, AnyBatch, AnyBatch], Tensor]  # module in training, forget batch, retain batch


def never(done: int) -> bool:
    """Goes on to the last step."""
    return False


def train_in_pairs(
    module: nn.Module,
    task: UnlearningTask,
    loss: PairLoss,
    tuning: Tuning,
    batch_size: int,
    *,
    name: str,
    only: Callable[[str], bool] | None = None,
    stop: Callable[[int], bool] = never,
) -> nn.Module:
    """Trains `module` in place, each step on a batch of `task.forget` and one of `task.retain`.

    Args:
        module: trained in place.
        task: its data, seed and progress.
        loss: maps the module and both batches to a scalar.
        tuning: optimizer, learning rate, schedule, steps, clipping.
        batch_size: forget examples a step, and as many retain examples.
        name: of the method: for its seeds and its progress.
        only: which parameters move, by name; all by default.
        stop: asked after every step, with the number of steps done; True makes it the last.

    Returns:
        `module`, in evaluation mode. Deterministic for `task.seed`, dropout included; torch's global random generator
        is left as it was.

    Raises:
        Diverged: a loss is not finite.
    """
    retain = shuffled_batches(task.retain, batch_size, seeded(task.seed, name, "retain"))
    forget = shuffled_batches(task.forget, batch_size, seeded(task.seed, name, "forget"))
    ledger = Ledger(parameters=sum(p.numel() for p in module.parameters()))

    def paired(live: nn.Module, batch: AnyBatch) -> Tensor:
        return loss(live, batch, next(retain))

    with torch.random.fork_rng(devices=()):
        torch.manual_seed(derive_seed(task.seed, name, "dropout"))
        module.train()
        for spent in fine_tune(module, forget, tuning, ledger, loss=paired, only=only):
            task.progress(f"unlearning ({name})", spent.steps, tuning.steps)
            if stop(spent.steps):
                task.progress(f"unlearning ({name})", tuning.steps, tuning.steps)  # there is no more to come
                break
    return module.eval()


def uniform_loss(said: Predictions) -> float:
    """Returns the cross-entropy of a uniform guess: log C, C the number of classes or the size of the vocabulary."""
    return math.log(said.logits.shape[-1])


def capped_loss(module: nn.Module, batch: AnyBatch, cap: float) -> Tensor:
    """Returns min(CE, cap * log C). A scalar.

    At the loss of a uniform guess there is nothing left to remove, and an ascent without a bound would go on to ruin
    everything else; above the cap the gradient is zero.
    """
    said = batch.predictions(module)
    return said.loss.clamp(max=cap * uniform_loss(said))
