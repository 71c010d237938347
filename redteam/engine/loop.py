"""The one training loop. Attacks, methods and testbeds all train through it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from redteam.engine.accumulation import Accumulation
from redteam.engine.batches import AnyBatch, Loss
from redteam.engine.cost import Diverged as Diverged
from redteam.engine.cost import Ledger, Spent
from redteam.engine.optimizers import Tuning, build_optimizer, clip_gradients, rate_at

Around = Callable[[torch.optim.Optimizer], AbstractContextManager[None]]


def mean_loss(module: nn.Module, batch: AnyBatch) -> Tensor:
    """Mean cross-entropy of the batch. A scalar."""
    return batch.loss(module)


def nothing_around(optimizer: torch.optim.Optimizer) -> AbstractContextManager[None]:
    """Leaves the step as it is."""
    return nullcontext()


def fine_tune(
    module: nn.Module,
    batches: Iterator[AnyBatch],
    tuning: Tuning,
    ledger: Ledger,
    *,
    loss: Loss = mean_loss,
    only: Callable[[str], bool] | None = None,
    parameters: Sequence[nn.Parameter] | None = None,
    around: Around = nothing_around,
) -> Iterator[Spent]:
    """Trains `module` in place for `tuning.steps` steps, yielding the cumulative cost after each.

    The caller may close the generator after any step. A batch that does not fit into memory is taken in parts, with
    the gradient of the whole, where the loss is the mean over its labels.

    Args:
        module: trained in place; gradients are cleared at the end.
        batches: at least `tuning.steps` batches.
        tuning: optimizer, learning rate, schedule, steps, clipping.
        ledger: charged for every step.
        loss: maps module and batch to a scalar.
        only: which parameters move, by name; all by default.
        parameters: what moves instead of the module's own: what hooks on it work with.
        around: given the optimizer, a context entered once the gradients are there; they are clipped and the step is
            taken inside.

    Raises:
        Diverged: a loss is not finite. The step that would have used it is not taken.
    """
    if parameters is None:
        parameters = [p for name, p in module.named_parameters() if only is None or only(name)]
    optimizer = build_optimizer(parameters, tuning, module)
    parts = Accumulation()
    trained = sum(parameter.numel() for parameter in parameters)
    try:
        for step in range(tuning.steps):
            started = time.perf_counter()
            batch = next(batches)
            measured = parts.backward(module, batch, loss, divisible=loss is mean_loss, parameters=parameters)
            if not math.isfinite(measured):
                raise Diverged(f"the training loss is {measured} at step {step}")
            rate = rate_at(step, tuning)
            for group in optimizer.param_groups:
                group["lr"] = rate
            with around(optimizer):
                if tuning.clip is not None:
                    clip_gradients(optimizer, parameters, tuning.clip)
                optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            module.zero_grad(set_to_none=True)
            spent = ledger.charge(samples=batch.samples, tokens=batch.tokens, loss=measured, trained=trained)
            ledger.seconds += time.perf_counter() - started
            yield spent
    finally:
        module.zero_grad(set_to_none=True)


def train(
    module: nn.Module,
    batches: Iterator[AnyBatch],
    tuning: Tuning,
    *,
    loss: Loss = mean_loss,
    only: Callable[[str], bool] | None = None,
    around: Around = nothing_around,
    on_step: Callable[[int], None] = lambda step: None,
) -> Ledger:
    """Runs `fine_tune` to its end and returns what it spent; `on_step` hears the number of steps done."""
    ledger = Ledger(parameters=sum(p.numel() for p in module.parameters()))
    module.train()
    for spent in fine_tune(module, batches, tuning, ledger, loss=loss, only=only, around=around):
        on_step(spent.steps)
    module.eval()
    return ledger
