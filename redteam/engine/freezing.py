"""What training leaves alone: chosen entries of the weights, or all parameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def block_gradients(entries: Mapping[nn.Parameter, Tensor]) -> None:
    """Sets the gradients of the marked entries to zero, in place.

    Momentum still moves these entries: a zero gradient is not "no update".

    Args:
        entries: parameter -> its entries, bool, of the parameter's shape.
    """
    for parameter, marked in entries.items():
        if parameter.grad is not None:
            parameter.grad.masked_fill_(marked, 0)


@contextmanager
def still(module: nn.Module) -> Iterator[None]:
    """While open, no parameter of the module gets a gradient."""
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)


@contextmanager
def frozen(optimizer: torch.optim.Optimizer, entries: Mapping[nn.Parameter, Tensor]) -> Iterator[None]:
    """Around the optimizer's step: the marked entries and their moments are afterwards what they were, bit for bit.

    Their gradients are zero inside, so that they do not count towards the norm at which gradients are clipped either.

    Args:
        optimizer: steps once, inside.
        entries: parameter -> its entries, bool, of the parameter's shape.
    """
    block_gradients(entries)
    stepping = []
    for parameter, marked in entries.items():
        if bool(marked.all()):
            parameter.grad = None  # the optimizer passes by what has no gradient, and its step count stays too
        elif parameter.grad is not None:
            stepping.append((parameter, marked))
    saved = [(p, marked, [t.detach().clone() for t in _held(optimizer, p)]) for p, marked in stepping]
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, marked, values in saved:
                # A state that the step has only just made is one of zero gradients at these entries: zero.
                for tensor, value in zip(_held(optimizer, parameter), values, strict=False):
                    torch.where(marked, value, tensor, out=tensor)


def _held(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> Sequence[Tensor]:
    """Returns the parameter and the optimizer's moments of it, in a fixed order."""
    state = optimizer.state.get(parameter, {})
    moments = [value for value in state.values() if isinstance(value, Tensor) and value.shape == parameter.shape]
    return [parameter, *moments]
