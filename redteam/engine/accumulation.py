"""What does not fit into memory at once is taken in parts: a step with the gradient of the whole, or what is read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn

from redteam.engine.batches import AnyBatch, Examples, Loss, ordered_rows

T = TypeVar("T")


@dataclass
class Accumulation:
    """Takes a batch in parts once it has not fit: half as many examples at a time, until they fit.

    Attributes:
        size: examples at a time; None for the whole batch, as long as that fits.
    """

    size: int | None = None

    def backward(
        self,
        module: nn.Module,
        batch: AnyBatch,
        loss: Loss,
        *,
        divisible: bool,
        parameters: Sequence[nn.Parameter] = (),
    ) -> float:
        """Adds the gradient of a batch's loss to the module's and returns the loss.

        Args:
            module: whose gradients are empty.
            batch: of one step.
            loss: maps module and batch to a scalar; a loss that is not finite is returned without a gradient.
            divisible: whether the loss is a mean over the labels of the batch, so that parts add up to it.
            parameters: those that get a gradient besides the module's own; theirs are empty too.

        Raises:
            RuntimeError: not even one example fits, or the loss cannot be divided.
        """
        while True:
            try:
                return self._backward(module, batch, loss)
            except RuntimeError as error:
                parts = min(self.size or batch.samples, batch.samples)
                if not divisible or parts < 2 or not out_of_memory(error):
                    raise
                self.size = parts // 2
            module.zero_grad(set_to_none=True)  # outside the handler, whose traceback holds what was allocated
            for parameter in parameters:
                parameter.grad = None
            _give_back()

    def _backward(self, module: nn.Module, batch: AnyBatch, loss: Loss) -> float:
        if self.size is None or batch.samples <= self.size:
            value = loss(module, batch)
            measured = float(value.detach())
            if torch.isfinite(value):
                value.backward()
            return measured
        total = 0.0
        for part in (batch.rows(slice(start, start + self.size)) for start in range(0, batch.samples, self.size)):
            if part.labelled == 0:
                continue
            value = loss(module, part) * (part.labelled / batch.labelled)
            total += float(value.detach())
            if not torch.isfinite(value):
                return float("nan")
            value.backward()
        return total


def read_in_order(data: Examples, size: int, read: Callable[[slice], T]) -> list[T]:
    """Reads all rows of a data set, in the order they are stored.

    Args:
        data: what is read.
        size: as of `ordered_rows`: how many rows at a time, at most.
        read: maps rows to what is found in them; it is asked for half as many where they do not fit into memory.

    Raises:
        RuntimeError: not even one row fits.
    """
    return [found for rows in ordered_rows(data, size) for found in _halved(rows, read)]


def _halved(rows: slice, read: Callable[[slice], T]) -> Iterator[T]:
    try:
        found = [read(rows)]
    except RuntimeError as error:
        if rows.stop - rows.start < 2 or not out_of_memory(error):
            raise
        found = []
    if found:
        yield found[0]
        return
    _give_back()
    middle = (rows.start + rows.stop) // 2
    for half in (slice(rows.start, middle), slice(middle, rows.stop)):
        yield from _halved(half, read)


def _give_back() -> None:
    """Gives an accelerator the memory back that torch keeps for later."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def out_of_memory(error: RuntimeError) -> bool:
    """Whether an allocation failed: an accelerator's has a type of its own, the processor's only a message."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
