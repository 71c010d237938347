"""Blocks of hidden units, found by name: what feeds them, what reads them, how to add units and how to cut them off.

A block is a pair of projections with something elementwise between them: the MLP of a transformer layer, its attention
(a unit is a key-value head with its queries), or two neighbouring linear layers of a classifier.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from redteam.errors import InputError

# Children that feed the hidden units, and the child that reads them: Llama and its kin, GPT-NeoX, GPT-2, OPT and Phi.
MLPS = (
    (("gate_proj", "up_proj"), "down_proj"),
    (("up_proj",), "down_proj"),
    (("dense_h_to_4h",), "dense_4h_to_h"),
    (("c_fc",), "c_proj"),
    (("fc1",), "fc2"),
)
WIDTHS = ("intermediate_size", "n_inner", "ffn_dim")  # what configs call the number of hidden units
ELEMENTWISE = (
    nn.Identity,
    nn.Dropout,
    nn.ReLU,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.ELU,
    nn.GELU,
    nn.SiLU,
    nn.Tanh,
    nn.Sigmoid,
    nn.Softplus,
)


@dataclass(frozen=True, slots=True)
class Block:
    """Hidden units between two projections.

    Attributes:
        name: of the module that holds them.
        ups: names of the projections whose outputs the units are.
        rows: outputs of each of them that belong to one unit.
        down: name of the projection whose input the units are: the post-activation.
        columns: its inputs that belong to one unit.
        width: number of units.
    """

    name: str
    ups: tuple[str, ...]
    rows: tuple[int, ...]
    down: str
    columns: int
    width: int


def mlp_blocks(module: nn.Module, pattern: str = "*") -> tuple[Block, ...]:
    """Returns the MLP blocks whose names match a shell pattern, in order.

    The name of a block of a transformer is its MLP's ("model.layers.0.mlp"); of two neighbouring layers of an
    `nn.Sequential` it is the first one's ("layers.0").

    Raises:
        InputError: the module has no block that is known, or none of that name.
    """
    found = tuple(_mlps(module))
    if not found:
        raise InputError(
            f"no MLP block was found in a {type(module).__name__}",
            "Known are Llama, GPT-NeoX, GPT-2 and OPT names, and linear layers in an nn.Sequential",
        )
    chosen = tuple(block for block in found if fnmatchcase(block.name, pattern))
    if not chosen:
        raise InputError(f"no MLP block matches {pattern!r}", f"They are {', '.join(block.name for block in found)}")
    return chosen


def attention_blocks(module: nn.Module) -> tuple[Block, ...]:
    """Returns the attention blocks with projections of their own for queries, keys and values; there may be none.

    With grouped queries a unit is one key-value head and the queries that read it, so cutting one off leaves the
    other heads as they were.
    """
    found = []
    for name, part in module.named_modules():
        head, layers = getattr(part, "head_dim", None), dict(part.named_children())
        if not isinstance(head, int) or not {"q_proj", "k_proj", "v_proj", "o_proj"} <= layers.keys():
            continue
        width = _size(layers["k_proj"], 0) // head
        queries = _size(layers["q_proj"], 0) // width
        ups = tuple(f"{name}.{child}" for child in ("q_proj", "k_proj", "v_proj"))
        found.append(Block(name, ups, (queries, head, head), f"{name}.o_proj", queries, width))
    return tuple(found)


def expand(module: nn.Module, blocks: Sequence[Block], extra: int, generator: torch.Generator) -> tuple[Block, ...]:
    """Appends `extra` units to each block, in place, and returns the wider blocks.

    New weights are normal with the standard deviation of those beside them, new biases zero. Where all MLP blocks
    have one width, a config of transformers is made to say so.
    """
    for block in blocks:
        for up, rows in zip(block.ups, block.rows, strict=True):
            _append(module.get_submodule(up), 0, extra * rows, generator)
        _append(module.get_submodule(block.down), 1, extra * block.columns, generator)
    _tell_config(module)
    return tuple(replace(block, width=block.width + extra) for block in blocks)


def ablate(module: nn.Module, blocks: Sequence[Block], count: int) -> tuple[Block, ...]:
    """Cuts the last `count` units off each block, in place, and returns the narrower blocks.

    Raises:
        ValueError: a block would have no unit left.
    """
    for block in blocks:
        kept = block.width - count
        if kept < 1:
            raise ValueError(f"{block.name} has {block.width} units, {count} cannot be cut off")
        for up, rows in zip(block.ups, block.rows, strict=True):
            _resize(module.get_submodule(up), 0, kept * rows)
        _resize(module.get_submodule(block.down), 1, kept * block.columns)
    _tell_config(module)
    return tuple(replace(block, width=block.width - count) for block in blocks)


def last_units(module: nn.Module, blocks: Sequence[Block], count: int) -> dict[str, Tensor]:
    """Returns which entries belong to the last `count` units of the blocks, by the name of the parameter.

    They are the units' rows of the projections that feed them, with those biases, and their columns of the one that
    reads them. Its bias belongs to no unit. Boolean, of the parameter's shape; parameters that have none are left out.
    """
    found: dict[str, Tensor] = {}
    for block in blocks:
        for up, rows in zip(block.ups, block.rows, strict=True):
            for name, parameter in module.get_submodule(up).named_parameters():
                axis = _axis(module.get_submodule(up), 0) if name == "weight" else 0
                _mark(found, f"{up}.{name}", parameter, axis, count * rows)
        down = module.get_submodule(block.down)
        _mark(found, f"{block.down}.weight", down.get_parameter("weight"), _axis(down, 1), count * block.columns)
    return found


@torch.no_grad()
def zero_units(module: nn.Module, blocks: Sequence[Block], count: int) -> None:
    """Sets all weights of the last `count` units of each block to zero, in place; the shapes stay."""
    for name, entries in last_units(module, blocks, count).items():
        module.get_parameter(name).masked_fill_(entries, 0)


def _mlps(module: nn.Module) -> Iterator[Block]:
    for name, part in module.named_modules():
        layers = dict(part.named_children())
        inside = f"{name}." if name else ""
        if isinstance(part, nn.Sequential):
            yield from _neighbours(inside, layers)
            continue
        for ups, down in MLPS:
            if {*ups, down} <= layers.keys() and all(_is_projection(layers[child]) for child in (*ups, down)):
                width = _size(layers[down], 1)
                yield Block(name, tuple(inside + up for up in ups), (1,) * len(ups), inside + down, 1, width)
                break


def _neighbours(inside: str, layers: dict[str, nn.Module]) -> Iterator[Block]:
    """Yields the linear layers of an `nn.Sequential` that have only elementwise layers between them."""
    before: str | None = None
    for name, layer in layers.items():
        if isinstance(layer, nn.Linear):
            if before is not None:
                yield Block(inside + before, (inside + before,), (1,), inside + name, 1, layer.in_features)
            before = name
        elif not isinstance(layer, ELEMENTWISE):
            before = None


def _is_projection(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Linear) or is_transposed(layer)


def is_transposed(layer: nn.Module) -> bool:
    """Whether it is GPT-2's linear layer, which stores its weight as [inputs, outputs]."""
    return type(layer).__name__ == "Conv1D" and hasattr(layer, "nf")


def _axis(layer: nn.Module, side: int) -> int:
    """Returns the axis of the weight that counts outputs (side 0) or inputs (side 1)."""
    return 1 - side if is_transposed(layer) else side


def _size(layer: nn.Module, side: int) -> int:
    return layer.get_parameter("weight").shape[_axis(layer, side)]


def _append(layer: nn.Module, side: int, count: int, generator: torch.Generator) -> None:
    size = _size(layer, side)
    _resize(layer, side, size + count)
    for name, parameter in layer.named_parameters():
        if name == "weight" and count:
            axis = _axis(layer, side)
            spread = parameter.detach().narrow(axis, 0, size).std()
            new = parameter.detach().narrow(axis, size, count)
            new.copy_(torch.randn(new.shape, generator=generator) * spread)


def _resize(layer: Any, side: int, size: int) -> None:
    """Gives a projection `size` outputs (side 0) or inputs (side 1): the first ones, zeros where there were none."""
    changed = {"weight": _axis(layer, side)} | ({"bias": 0} if side == 0 and layer.bias is not None else {})
    for name, axis in changed.items():
        old = getattr(layer, name)
        shape = list(old.shape)
        shape[axis] = size
        new = old.new_zeros(shape)
        kept = min(size, old.shape[axis])
        new.narrow(axis, 0, kept).copy_(old.detach().narrow(axis, 0, kept))
        setattr(layer, name, nn.Parameter(new, requires_grad=old.requires_grad))
    attributes = ("nf", "nx") if is_transposed(layer) else ("out_features", "in_features")
    setattr(layer, attributes[side], size)


def _mark(found: dict[str, Tensor], name: str, parameter: Tensor, axis: int, count: int) -> None:
    entries = found.setdefault(name, torch.zeros(parameter.shape, dtype=torch.bool))
    entries.narrow(axis, parameter.shape[axis] - count, count).fill_(True)


def _tell_config(module: nn.Module) -> None:
    config: Any = getattr(module, "config", None)
    widths = {block.width for block in _mlps(module)}
    for name in WIDTHS:
        if hasattr(config, name) and len(widths) == 1:
            setattr(config, name, widths.pop())
            return
