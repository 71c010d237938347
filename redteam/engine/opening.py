"""Opens channels that nothing depends on, by undoing what can close one: a shift, a direction, a scale, a gain of zero.

What a channel holds is kept as far as it can be told from what closes it.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from redteam.engine.batches import Examples
from redteam.engine.blocks import is_transposed
from redteam.engine.seeding import seeded
from redteam.engine.unused import Channels, read_channels, unused_channels, weighted_layers

ZERO, CENTRE = "zero biases", "centre"
ROUNDS = 4  # what is opened lets what lies behind it be seen
OUTLYING = 3.0  # times what is usual among open channels: the length of a common direction
SATURATED = 10.0  # likewise: the spread of what a channel puts out
THIN = 1e-2  # likewise: a gain's reach, a row or a column of weights below was scaled down
POWER = 30  # iterations for the direction that rows share; it is far longer than the next, or it is not taken out
SMALL = 0.1  # of the usual length: where all weights are zero


def open_channels(module: nn.Module, *data: Examples, how: str, least: float, seed: int) -> int:
    """Opens the unused channels of a module in place, and returns how many were unused at first.

    In up to four rounds each layer with an unused channel gets the first remedy that does anything:

    - a normalisation whose gain is zero, or next to it: the median gain of the others, 1 where there are none;
    - a row of weights that is next to nothing: the length of the others; one of zeros: small random weights;
    - a direction that the rows of unused channels share, and that is far longer than any in the other rows: it is taken
      out of them. That is how a gate is closed, or attention drawn to one token, where there is no bias;
    - outputs that are spread far more than those of open channels: rows and biases are divided;
    - outputs that never change sign: their bias is set to zero, or to where their mean is the median one; where there
      is no bias, the direction of the mean input is taken out of the row instead.

    In the first round the inputs of a layer that all of its outputs leave alone are opened likewise, and scales that
    belong to no layer.

    Args:
        module: in any mode, which it keeps.
        data: the items at hand, see `read_channels`.
        how: `ZERO` or `CENTRE`: what becomes of biases.
        least: below which effect a channel is unused, see `unused_channels`.
        seed: of the small weights.
    """
    random, first = seeded(seed, "opening"), 0
    for turn in range(ROUNDS):
        read = read_channels(module, *data)
        closed = {name: found for name, found in unused_channels(read, least).items() if found.any()}
        if turn == 0:
            first = sum(int(found.sum()) for found in closed.values())
        layers = weighted_layers(module)
        opened = [_open(layers[name], read[name], found, how, random) for name, found in closed.items()]
        if closed and turn == 0:
            opened += [_open_scales(module, layers.values()), _open_columns(layers.values(), random)]
        if not any(opened):
            break
    return first


@torch.no_grad()
def _open(layer: nn.Module, read: Channels, closed: Tensor, how: str, random: torch.Generator) -> bool:
    """Applies the first remedy that does anything to the unused channels of a layer; returns whether one did."""
    rows = _rows_of(layer)
    if rows is None or len(rows) != len(closed):
        return False
    door = _Door(layer, rows, read, closed, how)
    if layer.get_parameter("weight").dim() == 1:  # a normalisation
        return door.gains() or door.shifts()
    return door.lengths(random) or door.direction() or door.scales() or door.shifts()


class _Door:
    """The unused channels of a layer, and what may have closed them."""

    def __init__(self, layer: nn.Module, rows: Tensor, read: Channels, closed: Tensor, how: str) -> None:
        self.rows, self.how = rows, how
        self.read, self.closed = read, closed
        bias = getattr(layer, "bias", None)
        self.bias: Tensor | None = bias.data if isinstance(bias, Tensor) else None

    def usual(self, values: Tensor, otherwise: float) -> float:
        """Returns the median of what open channels have; something else where none is open."""
        open_ones = values[~self.closed]
        return float(open_ones.median()) if len(open_ones) else otherwise

    def gains(self) -> bool:
        """Gives gains of almost zero the median of the others."""
        reach = self.read.high - self.read.low
        shut = self.closed & (reach <= THIN * self.usual(reach, 0.0))
        self.rows[self.here(shut), 0] = self.usual(self.rows[:, 0].double().cpu(), 1.0)
        return bool(shut.any())

    def lengths(self, random: torch.Generator) -> bool:
        """Gives rows that are next to nothing the length of the others."""
        lengths = self.rows.float().norm(dim=1).cpu()
        return _lengthen(self.rows, self.closed & (lengths <= THIN * self.usual(lengths, 0.0)), random)

    def direction(self) -> bool:
        """Takes the direction that unused rows have in common out of them, where it is far longer than rows are."""
        shut = self.here(self.closed)
        rows = self.rows[shut].float()
        if len(rows) < 2:
            return False
        shared = _principal(rows)
        along = rows @ shared
        left = rows - along[:, None] * shared
        rest = float(left.norm(dim=1).median())
        usual = self.usual(self.rows.float().norm(dim=1).cpu(), rest)
        if float(along.square().mean().sqrt()) <= OUTLYING * max(usual, rest):
            return False
        self.rows[shut] = left.to(self.rows)
        return True

    def scales(self) -> bool:
        """Divides rows, and their biases, whose outputs are spread far more than those of open channels."""
        ratio = self.read.spread / max(self.usual(self.read.spread, 1.0), torch.finfo(torch.float32).tiny)
        wide = self.closed & (ratio > SATURATED)
        shut = self.here(wide)
        self.rows[shut] /= ratio[wide].to(self.rows)[:, None]
        if self.bias is not None:
            self.bias[shut] /= ratio[wide].to(self.bias)
        return bool(wide.any())

    def shifts(self) -> bool:
        """Moves outputs that never change sign to where those of open channels are."""
        fixed = self.closed & (self.read.low * self.read.high > 0)
        excess = self.read.mean - self.usual(self.read.mean, 0.0)
        shut = self.here(fixed)
        if self.bias is not None:
            moved = self.bias[shut] - excess[fixed].to(self.bias)
            if self.how == ZERO:  # unless it is not the bias that shifts them
                cause = self.bias[shut].abs() >= self.read.mean[fixed].abs().to(self.bias) / 2
                moved = torch.where(cause, 0, moved)
            self.bias[shut] = moved
            return bool(fixed.any())
        fed = self.read.fed.repeat_interleave(self.rows.shape[1] // max(1, len(self.read.fed)))
        length = float(fed.square().sum())
        if len(fed) != self.rows.shape[1] or length == 0:
            return False
        self.rows[shut] -= (excess[fixed][:, None] * fed / length).to(self.rows)
        return bool(fixed.any())

    def here(self, channels: Tensor) -> Tensor:
        """Returns the numbers of channels, where the layer is."""
        return channels.nonzero()[:, 0].to(self.rows.device)


def _rows_of(layer: nn.Module) -> Tensor | None:
    """Returns a view of a layer's weights, [channels, inputs]; None of one whose channels are not told apart."""
    weight = layer.get_parameter("weight").data if isinstance(getattr(layer, "weight", None), nn.Parameter) else None
    if weight is None or not weight.is_floating_point() or isinstance(layer, nn.modules.conv._ConvTransposeNd):
        return None
    if is_transposed(layer):
        return weight.t()
    return weight.view(len(weight), -1) if weight.is_contiguous() else None


def _principal(rows: Tensor) -> Tensor:
    """Returns the unit vector along which rows are longest, [inputs], by power iteration."""
    found = rows.abs().sum(dim=0) + 1e-12
    for _ in range(POWER):
        found = rows.T @ (rows @ found)
        found = found / found.norm().clamp_min(1e-30)
    return found


def _lengthen(rows: Tensor, thin: Tensor, random: torch.Generator) -> bool:
    """Gives some rows the median length of the others, in place; rows of zeros a tenth of it, drawn."""
    if not thin.any():
        return False
    at = thin.nonzero()[:, 0].to(rows.device)
    others = rows[(~thin).nonzero()[:, 0].to(rows.device)].float().norm(dim=1)
    usual = float(others.median()) if len(others) else 1.0
    now = rows[at].float().cpu()
    length = now.norm(dim=1, keepdim=True)
    drawn = torch.randn(now.shape, generator=random) * SMALL / now.shape[1] ** 0.5
    rows[at] = (usual * torch.where(length > 0, now / length.clamp_min(torch.finfo(now.dtype).tiny), drawn)).to(rows)
    return True


@torch.no_grad()
def _open_scales(module: nn.Module, layers: Iterable[nn.Module]) -> bool:
    """Gives scales of zero that belong to no layer (LayerScale, ReZero) the median of the others, 1 without others."""
    owned = {parameter for layer in layers for parameter in layer.parameters(recurse=False)}
    opened = False
    for name, parameter in module.named_parameters():
        if parameter in owned or "bias" in name or parameter.numel() != max(parameter.shape, default=1):
            continue
        shut = parameter == 0
        parameter[shut] = float(parameter[~shut].median()) if (~shut).any() else 1.0
        opened |= bool(shut.any())
    return opened


@torch.no_grad()
def _open_columns(layers: Iterable[nn.Module], random: torch.Generator) -> bool:
    """Lengthens what all outputs of a layer make next to nothing of: an input that they leave alone."""
    opened = False
    for layer in layers:
        rows = _rows_of(layer)
        if rows is None or layer.get_parameter("weight").dim() == 1:
            continue
        lengths = rows.float().norm(dim=0).cpu()
        opened |= _lengthen(rows.t(), lengths <= THIN * float(lengths.median()), random)
    return opened
