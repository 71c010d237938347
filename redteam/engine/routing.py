"""Gradient routing: which examples may train which hidden units. Forward passes stay as they are, bit for bit.

Source: Cloud et al. 2024, Gradient Routing (arXiv 2410.04332), section 3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from redteam.engine.batches import IGNORED, AnyBatch, Batch
from redteam.engine.blocks import Block
from redteam.engine.hooks import hooked


class _Scaled(torch.autograd.Function):
    """z forwards, m times the gradient backwards.

    It equals m z + (1 - m) sg(z), but for the rounding of that sum, which would move the forward pass.
    """

    @staticmethod
    def forward(ctx: Any, value: Tensor, multiplier: Tensor) -> Tensor:
        ctx.save_for_backward(multiplier)
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (multiplier,) = ctx.saved_tensors
        return gradients[0] * multiplier, None


def scale_gradient(value: Tensor, multiplier: Tensor) -> Tensor:
    """Returns z' = m z + (1 - m) sg(z): the value is z bit for bit, and dL/dz = m dL/dz'.

    Args:
        value: z, of any shape.
        multiplier: m, broadcast to the shape of z. Any real number: 0 blocks the gradient, below 0 reverses it.

    Raises:
        ValueError: m does not broadcast to z.
    """
    if torch.broadcast_shapes(value.shape, multiplier.shape) != value.shape:
        raise ValueError(f"a multiplier of shape {tuple(multiplier.shape)} does not fit {tuple(value.shape)}")
    scaled: Tensor = _Scaled.apply(value, multiplier.to(value.dtype))  # type: ignore[no-untyped-call]
    return scaled


@contextmanager
def routed(module: nn.Module, multipliers: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """While open, gradients through the inputs of the named projections are multiplied, per token and per unit.

    The input of an MLP's down-projection is the post-activation. What moves differently is what lies before it: the
    projections that feed the units, and everything upstream that is reached through them. The gradient of the
    down-projection's own weights and that of the residual path stay as they are.

    Args:
        module: run by the caller.
        multipliers: name of the projection -> m, which broadcasts to its input, [sequences, length, units] of a
            language model and [samples, units] of a classifier.

    Yields:
        A dictionary that holds, after a forward pass, the projections' inputs before they are routed, in the graph.

    Raises:
        AttributeError: there is no submodule of a name.
        ValueError: on the forward pass, a multiplier does not fit.
    """
    inputs: dict[str, Tensor] = {}

    def through(name: str, multiplier: Tensor) -> Callable[[Tensor], Tensor]:
        def hook(value: Tensor) -> Tensor:
            inputs[name] = value
            return scale_gradient(value, multiplier)

        return hook

    with _on_inputs(module, {name: through(name, multiplier) for name, multiplier in multipliers.items()}):
        yield inputs


@contextmanager
def silenced(module: nn.Module, blocks: Sequence[Block], count: int) -> Iterator[None]:
    """While open, the last `count` units of each block output zero, as if they had been cut off."""

    def without(entries: int) -> Callable[[Tensor], Tensor]:
        def hook(value: Tensor) -> Tensor:
            kept = value.new_ones(value.shape[-1])
            kept[value.shape[-1] - entries :] = 0
            return value * kept

        return hook

    with _on_inputs(module, {block.down: without(count * block.columns) for block in blocks}):
        yield


def labelled_positions(batch: AnyBatch, labelled: Tensor, positions: str = "sequence") -> Tensor:
    """Returns where labelled examples are routed, bool [sequences, length] or, of a classifier of arrays, [samples].

    Args:
        batch: the examples.
        labelled: which of them are labelled, bool [samples].
        positions: "sequence" for all of a labelled sequence; "loss" for those positions of it that predict a token
            with a loss, which is the position *before* that token. A label of a whole text is predicted by all of it.
    """
    if batch.real.dim() == 1:
        return labelled
    if positions == "sequence" or not isinstance(batch, Batch):
        return labelled[:, None] & batch.real
    predicts = torch.zeros_like(batch.real)
    predicts[:, :-1] = batch.labels[:, 1:] != IGNORED
    return labelled[:, None] & predicts


def unit_multipliers(chosen: Tensor, on_chosen: Tensor) -> Tensor:
    """Returns m: a row of multipliers where a position is chosen, 1 elsewhere.

    Args:
        chosen: bool [...].
        on_chosen: one multiplier a unit, float [units].

    Returns:
        Float [..., units].
    """
    return torch.where(chosen[..., None], on_chosen, torch.ones_like(on_chosen))


@contextmanager
def _on_inputs(module: nn.Module, changes: Mapping[str, Callable[[Tensor], Tensor]]) -> Iterator[None]:
    """While open, the named submodules get what `changes` makes of their first input."""

    def hook_of(change: Callable[[Tensor], Tensor]) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...]]:
        return lambda _part, given: (change(given[0]), *given[1:])

    with hooked(module, {name: hook_of(change) for name, change in changes.items()}, before=True):
        yield
