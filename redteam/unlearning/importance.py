"""How much each weight matters to a set of examples, and how weights that matter to the wrong set are dampened.

Everything that moves a number is an argument: which batches, in which order, in which mode, by which definition. So
whoever has the weights and the data can compute the same tensors by other means.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from redteam.engine.batches import AnyBatch, Examples, LabelledBatch, TextBatch, ordered_batches
from redteam.engine.loop import Diverged
from redteam.engine.seeding import derive_seed
from redteam.errors import InputError
from redteam.unlearning.contract import UnlearningTask

DEFINITIONS = ("batch", "sample", "norm")
FULL = ("all", "retain")
Importance = Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """How importances are read off a task.

    Attributes:
        definition: see `importance`.
        batch_size: examples a batch, the same for both sets.
        full: what the forget set is compared with: "all" (the retain set, then the forget set) or "retain".
        evaluation: whether the module is in evaluation mode.
        short_batch: whether a last batch that is not full counts. It counts as much as any other. A set smaller than
            a batch always counts.
    """

    definition: str
    batch_size: int
    full: str
    evaluation: bool
    short_batch: bool

    def check(self) -> None:
        """Refuses what cannot be read.

        Raises:
            InputError: an unknown definition or set, or empty batches.
        """
        if self.definition not in DEFINITIONS:
            raise InputError(f"there is no importance {self.definition!r}", f"Choose from: {', '.join(DEFINITIONS)}")
        if self.full not in FULL:
            raise InputError(f"the full set is {self.full!r}", f"Choose from: {', '.join(FULL)}")
        if self.batch_size < 1:
            raise InputError(f"the batch size is {self.batch_size}", "Give at least 1")

    def batches(self, data: Examples) -> list[AnyBatch]:
        """Returns batches of the examples in the order they are stored."""
        found = list(ordered_batches(data, self.batch_size))
        short = len(found) > 1 and found[-1].samples < self.batch_size
        return found[:-1] if short and not self.short_batch else found


def importances(task: UnlearningTask, reading: Reading) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Returns the importances of the original's weights to the forget set, and to the full set.

    "all" is the mean over the batches of the retain set and those of the forget set, in this order. No batch mixes the
    two, so every example is run once. Where dropout is on, it draws from a seed of the task.

    Raises:
        InputError: the module has no weight that may move.
        Diverged: a loss is not finite.
    """
    module = task.original
    training = not reading.evaluation
    retain, forget = reading.batches(task.retain), reading.batches(task.forget)
    counts = [sum(b.samples if reading.definition == "sample" else 1 for b in batches) for batches in (retain, forget)]
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(derive_seed(task.seed, "importance"))
        task.progress("reading importances", 0, 2)
        on_retain = importance(module, retain, definition=reading.definition, training=training)
        task.progress("reading importances", 1, 2)
        on_forget = importance(module, forget, definition=reading.definition, training=training)
        task.progress("reading importances", 2, 2)
    if reading.full == "retain":
        return on_forget, on_retain
    total = sum(counts)
    pooled = {n: (counts[0] * on_retain[n] + counts[1] * on_forget[n]) / total for n in on_retain}
    return on_forget, pooled


def importance(
    module: nn.Module, batches: Iterable[AnyBatch], *, definition: str = "batch", training: bool = False
) -> dict[str, Tensor]:
    """Returns how much each weight matters to the examples of some batches.

    With B batches and L_b the mean cross-entropy of batch b (of a language model over its labelled tokens):

    - "batch": (1/B) sum_b (dL_b/dw)^2, the published definition. It depends on what is in a batch.
    - "sample": (1/N) sum_x (dL_x/dw)^2 over the N examples, each by itself: it does not depend on the batches.
    - "norm": (1/B) sum_b |d/dw mean_x ||f(x)||_2|, with f(x) the logits. Labels are not read; of a language model x
      runs over the positions before labelled tokens, those that the loss covers.

    Source: Foster et al. 2023, Selective Synaptic Dampening (arXiv 2308.07707), section 3; "norm" is the label-free
    importance of Schoepf et al. 2024, Potion (arXiv 2406.09173).

    Args:
        module: no gradient is left in it, and its mode and buffers are as before.
        batches: in the order in which they are run. Every batch weighs the same, whatever its size.
        definition: see above.
        training: runs the module in training mode: batch statistics, and dropout from torch's global generator.
            With "sample", a batch norm in training mode is refused by torch.

    Returns:
        One float32 tensor of each parameter's shape, by name; shared weights appear once, frozen ones not at all.

    Raises:
        InputError: no weight may move.
        Diverged: a loss is not finite.
        ValueError: there is no batch.
    """
    weights = {name: p for name, p in module.named_parameters() if p.requires_grad}
    if not weights:
        raise InputError("no weight of the model may move", "Call model.requires_grad_(True)")
    sums = {name: torch.zeros_like(p, dtype=torch.float32) for name, p in weights.items()}
    count = 0
    with _mode(module, training):
        for count, value in enumerate(_values(module, batches, definition), start=1):
            if not math.isfinite(float(value.detach())):
                raise Diverged(f"the training loss is {float(value.detach())} at step {count - 1}")
            gradients = torch.autograd.grad(value, list(weights.values()), allow_unused=True)
            for kept, gradient in zip(sums.values(), gradients, strict=True):
                if gradient is not None:
                    kept += gradient.float().abs() if definition == "norm" else gradient.float().square()
    if count == 0:
        raise ValueError("importance needs at least one batch")
    return {name: kept / count for name, kept in sums.items()}


def damping_factors(forget: Importance, full: Importance, *, alpha: float, dampening: float) -> dict[str, Tensor]:
    """Returns what each weight is to be multiplied with: min(1, dampening * I_D / I_f) where I_f > alpha * I_D, else 1.

    No factor is above 1. A weight that matters to neither set keeps its value; one that matters to the forget set
    alone becomes 0, whatever alpha is.

    Source: Foster et al. 2023, Selective Synaptic Dampening, equations 6 and 7 (arXiv 2308.07707).

    Args:
        forget: I_f, by parameter name.
        full: I_D, same names and shapes.
        alpha: a weight is selected above this ratio.
        dampening: lambda.

    Returns:
        Factors in [0, 1], float64, by name.
    """
    factors = {}
    for name, of_forget in forget.items():
        wrong, right = of_forget.double(), full[name].double()
        # Where nothing is selected the ratio may be 0 / 0; it is never looked at.
        scaled = (dampening * right / wrong).clamp(max=1.0)
        factors[name] = torch.where(wrong > alpha * right, scaled, torch.ones_like(scaled))
    return factors


def dampened(original: nn.Module, factors: Importance) -> nn.Module:
    """Returns a copy in evaluation mode whose weights are multiplied with the factors; buffers stay as they are."""
    module = copy.deepcopy(original).eval()
    module.zero_grad(set_to_none=True)
    dampen_from(original, module, factors)
    return module


@torch.no_grad()
def dampen_from(original: nn.Module, module: nn.Module, factors: Importance) -> None:
    """Writes the original's weights, multiplied with the factors, into a copy, whatever the copy held before."""
    weights = dict(original.named_parameters())
    for name, parameter in module.named_parameters():
        if name in factors:
            parameter.copy_(weights[name].double() * factors[name])


@contextmanager
def _mode(module: nn.Module, training: bool) -> Iterator[None]:
    """Runs what is inside in a mode; afterwards every submodule's own mode is back, and so are the buffers."""
    modes = [(part, part.training) for part in module.modules()]
    buffers = {name: buffer.clone() for name, buffer in module.named_buffers()} if training else {}
    module.train(training)
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode
        with torch.no_grad():
            for name, kept in buffers.items():
                module.get_buffer(name).copy_(kept)


def _values(module: nn.Module, batches: Iterable[AnyBatch], definition: str) -> Iterator[Tensor]:
    """Yields the scalars whose gradients count."""
    for batch in batches:
        if definition == "norm":
            yield batch.predictions(module).logits.norm(dim=-1).mean()
        elif definition == "batch":
            yield batch.loss(module)
        else:
            yield from (one.loss(module) for one in single_samples(batch))


def single_samples(batch: AnyBatch) -> Iterator[AnyBatch]:
    """Yields each example of a batch as a batch of its own, without its padding."""
    for row in range(batch.samples):
        if isinstance(batch, LabelledBatch):
            one = batch.rows(slice(row, row + 1))
            yield replace(one, inputs=one.inputs[:, one.real[0]]) if isinstance(one, TextBatch) else one
        else:
            length = int(batch.real[row].sum())
            kept = slice(row, row + 1), slice(0, length)
            yield type(batch)(batch.input_ids[kept], batch.labels[kept], None, length)
