"""Training in units of each weight's own rows and columns, which no rescaling that leaves outputs alone disturbs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

BETAS, EPS = (0.9, 0.999), 1e-8
PASSES = 128  # over a weight, at most, until the means of its logarithms stand still; two where no entry is zero
SETTLED = 1e-5  # powers of two
BALANCED = 8  # passes of Sinkhorn and Knopp


class Balanced(torch.optim.Optimizer):
    """Moves w / s instead of w, where s = rows * columns is fixed at the start: see `units_of`.

    The gradient of w / s is g * s. If rows and columns of w are multiplied by any numbers, and what comes before and
    after divides by them, then s is multiplied likewise and g divided, and training is the same step by step. So it is
    for norm gains against the columns that read them, up against down projections, values against outputs, queries
    against keys, and channels of convolutions. Weight decay is decoupled, which is a share of w in any units.

    Source: that a step should not depend on how units are scaled: Neyshabur et al. 2015, Path-SGD (arXiv 1506.02617);
    that rows and columns are balanced for it: Stock et al. 2019, Equi-normalization (arXiv 1902.10416).
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float,
        weight_decay: float = 0.0,
        groups: Mapping[Tensor, int] | None = None,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay})
        known = groups or {}
        for parameter in self._all():
            self.state[parameter]["units"] = units_of(parameter.detach(), known.get(parameter))

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Moves every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    state = self.state[parameter]
                    rows, columns = state["units"]
                    step = self._direction(state, parameter.grad * rows * columns).mul_(rows).mul_(columns)
                    parameter.mul_(1 - group["lr"] * group["weight_decay"]).sub_(step, alpha=group["lr"])

    @torch.no_grad()
    def clip(self, largest: float) -> None:
        """Scales all gradients so that the norm of g * s over all parameters is at most `largest`."""
        gradients = [(p.grad, *self.state[p]["units"]) for p in self._all() if p.grad is not None]
        norms = [torch.linalg.vector_norm(gradient * rows * columns) for gradient, rows, columns in gradients]
        if norms:
            whole = torch.linalg.vector_norm(torch.stack([norm.to(norms[0].device) for norm in norms]))
            share = (largest / (whole + 1e-6)).clamp(max=1.0)
            for gradient, _, _ in gradients:
                gradient.mul_(share.to(gradient.device))

    def _all(self) -> Iterator[nn.Parameter]:
        for group in self.param_groups:
            yield from group["params"]

    def _direction(self, state: dict[str, Any], scaled: Tensor) -> Tensor:
        """Returns what is taken off w / s, but for the rate: a tensor of its own.

        Args:
            state: of the parameter; moments are kept here.
            scaled: g * s.
        """
        raise NotImplementedError


class RelativeMomentum(Balanced):
    """Momentum on w / s, over the root of the mean square of all entries of each weight so far; betas as of Adam.

    Weights that the data hardly asks to move hardly do, as with SGD, where Adam moves all by about the same; and each
    weight as a whole moves by about the rate, however large it is.

    Source: Ginsburg et al. 2019, NovoGrad (arXiv 1905.11286), whose second moment is one number a layer too; the
    moments are Adam's here, corrected for their start.
    """

    def _direction(self, state: dict[str, Any], scaled: Tensor) -> Tensor:
        state["step"] = done = state.get("step", 0) + 1
        first = state.setdefault("first", torch.zeros_like(scaled)).lerp_(scaled, 1 - BETAS[0])
        second = state.setdefault("second", scaled.new_zeros(())).lerp_(scaled.square().mean(), 1 - BETAS[1])
        size = (second / (1 - BETAS[1] ** done)).sqrt_().add_(EPS)
        return torch.div(first, size).div_(1 - BETAS[0] ** done)


class RelativeAdam(Balanced):
    """Adam on w / s, betas .9 and .999.

    Source: Kingma & Ba 2015, Adam (arXiv 1412.6980), algorithm 1.
    """

    def _direction(self, state: dict[str, Any], scaled: Tensor) -> Tensor:
        state["step"] = done = state.get("step", 0) + 1
        first = state.setdefault("first", torch.zeros_like(scaled)).lerp_(scaled, 1 - BETAS[0])
        second = state.setdefault("second", torch.zeros_like(scaled)).mul_(BETAS[1])
        second.addcmul_(scaled, scaled, value=1 - BETAS[1])
        size = (second / (1 - BETAS[1] ** done)).sqrt_().add_(EPS)
        return torch.div(first, size, out=size).div_(1 - BETAS[0] ** done)


def groups_of(module: nn.Module) -> dict[Tensor, int]:
    """Returns the weights of a module's convolutions, each with the number of its groups."""
    return {part.weight: part.groups for part in module.modules() if isinstance(part, _ConvNd)}


def units_of(weight: Tensor, groups: int | None = None) -> tuple[Tensor, Tensor]:
    """Returns units of rows and of columns; both broadcast against the weight, and their product is s.

    Each row of w / s has norm one and all columns have the same: as in a network that was just drawn, so that rates
    mean what they mean there. A weight of one dimension is a diagonal: s = |w|. Experts of three dimensions are
    balanced one by one; of a convolution a row is an output channel with all its kernels, a column an input channel of
    a group. What is exactly zero in all its row or column has the unit zero, and stays; which of the two sides a
    common factor goes to is arbitrary.

    The logarithms are balanced first, by their means over what is not zero. What is left is the same for every
    rescaling of rows and columns, and so is the outcome after any number of passes of Sinkhorn and Knopp.

    Source: Sinkhorn & Knopp 1967, Concerning nonnegative matrices and doubly stochastic matrices, on the squares.

    Args:
        weight: float32, of any shape.
        groups: of a convolution; None for any other weight.
    """
    if weight.ndim < 2 or not weight.numel():
        return weight.abs(), weight.new_ones(())
    if groups is None:
        shape: tuple[int, ...] = (-1, *weight.shape[-2:], 1)
        row_shape, column_shape = (*weight.shape[:-1], 1), (*weight.shape[:-2], 1, weight.shape[-1])
    else:
        out, into, ones = weight.shape[0], weight.shape[1], (1,) * (weight.ndim - 2)
        shape = (groups, out // groups, into, -1)
        row_shape, column_shape = (out, 1, *ones), (groups, into, *ones)
    rows, columns = _balanced(weight.reshape(shape))
    columns = columns.reshape(column_shape)
    if groups is not None and groups > 1:
        columns = columns.repeat_interleave(weight.shape[0] // groups, dim=0)
    return rows.reshape(row_shape), columns


def _balanced(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Returns units of rows, [weights, out, 1, 1], and columns, [weights, 1, in, 1], of [weights, out, in, kernel]."""
    over_row, over_column = (2, 3), (1, 3)
    live = weight != 0
    in_row, in_column = (live.sum(dim, keepdim=True).clamp(min=1) for dim in (over_row, over_column))
    logs = weight.abs().log2_().masked_fill_(~live, 0.0)
    rows, columns = logs.new_zeros(in_row.shape), logs.new_zeros(in_column.shape)
    for _ in range(PASSES):
        was = columns
        rows = rows + _mean(logs - rows - columns, live, over_row, in_row)
        columns = columns + _mean(logs - rows - columns, live, over_column, in_column)
        if bool((columns - was).abs().amax() <= SETTLED):
            break
    squares = (logs - rows - columns).exp2_().square_().masked_fill_(~live, 0.0)
    alive_rows, alive_columns = live.any(2, True).any(3, True), live.any(1, True).any(3, True)
    norm = alive_columns.sum(2, True).clamp(min=1) / alive_rows.sum(1, True).clamp(min=1)  # squared, of a column
    by_row, by_column = torch.ones_like(rows), torch.ones_like(columns)
    for _ in range(BALANCED):
        by_row = torch.where(alive_rows, (squares / by_column).sum(over_row, keepdim=True), 1.0)
        by_column = torch.where(alive_columns, (squares / by_row).sum(over_column, keepdim=True) * norm, 1.0)
    return rows.exp2_() * by_row.sqrt_() * alive_rows, columns.exp2_() * by_column.sqrt_() * alive_columns


def _mean(values: Tensor, live: Tensor, over: tuple[int, ...], count: Tensor) -> Tensor:
    return values.masked_fill_(~live, 0.0).sum(over, keepdim=True) / count
