"""Copies of models rescaled by powers of two at every symmetry of their architecture: the same function, to the bit."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn


def rescaled_llama(module: nn.Module, span: float = 1.5, seed: int = 0) -> nn.Module:
    """A copy of a Llama whose weights are multiplied by powers of two between 10^-span and 10^span.

    Norm gains against the columns that read them, up against down projections, values against outputs channel by
    channel, queries against keys pair by rotary pair, and the last norm against the head unless that is the embedding.
    """
    copied: Any = copy.deepcopy(module)
    config, draw = copied.config, _Powers(span, seed)
    for layer in copied.model.layers:
        attention, mlp = layer.self_attn, layer.mlp
        queries, keys, values = attention.q_proj, attention.k_proj, attention.v_proj
        _gain(layer.input_layernorm, (queries, keys, values), draw)
        _gain(layer.post_attention_layernorm, (mlp.gate_proj, mlp.up_proj), draw)
        _pair(mlp.up_proj, mlp.down_proj, draw(config.intermediate_size))
        heads, head = config.num_key_value_heads, attention.head_dim
        shared = config.num_attention_heads // heads  # query heads to a key and value head
        by_value = draw(heads * head)
        _rows(values, by_value)
        _columns(attention.o_proj, _for_each_query(by_value, head, shared))
        by_key = draw(heads * head // 2).reshape(heads, head // 2).repeat(1, 2).flatten()
        _rows(queries, _for_each_query(by_key, head, shared))
        _rows(keys, 1 / by_key)
    if not config.tie_word_embeddings:
        _gain(copied.model.norm, (copied.lm_head,), draw)
    return copied


def rescaled_chain(layers: nn.Sequential, span: float = 1.5, seed: int = 0) -> nn.Sequential:
    """A copy of a chain of linear layers, convolutions, batch normalisation, ReLU and pooling, rescaled likewise.

    Each output channel against the columns that read it; where normalisation stands between, its gain and bias.
    """
    copied, draw = copy.deepcopy(layers), _Powers(span, seed)
    weighted = [part for part in copied if list(part.parameters())]
    for part, after in pairwise(weighted):
        if not isinstance(after, nn.BatchNorm2d):
            _pair(part, after, draw(len(part.weight)))
    return copied


class _Powers:
    """Draws powers of two."""

    def __init__(self, span: float, seed: int) -> None:
        self.largest, self.draw = math.floor(span * math.log2(10)), torch.Generator().manual_seed(seed)

    def __call__(self, count: int) -> Tensor:
        exponents = torch.randint(-self.largest, self.largest + 1, (count,), generator=self.draw)
        return torch.exp2(exponents.float())


def _for_each_query(factors: Tensor, head: int, shared: int) -> Tensor:
    return factors.reshape(-1, 1, head).repeat(1, shared, 1).flatten()


def _gain(norm: Any, readers: Sequence[nn.Module], draw: _Powers) -> None:
    factors = draw(len(norm.weight))
    _rows(norm, factors)
    for reader in readers:
        _columns(reader, factors)


def _pair(first: nn.Module, second: nn.Module, factors: Tensor) -> None:
    _rows(first, factors)
    _columns(second, factors)


@torch.no_grad()
def _rows(part: Any, factors: Tensor) -> None:
    """Multiplies what a layer puts out."""
    part.weight.mul_(factors.reshape(-1, *[1] * (part.weight.ndim - 1)))
    if getattr(part, "bias", None) is not None:
        part.bias.mul_(factors)


@torch.no_grad()
def _columns(part: Any, factors: Tensor) -> None:
    """Divides what a layer takes in: a convolution by channel and group, a layer after flattening by channel."""
    weight, groups = part.weight, getattr(part, "groups", 1)
    if groups > 1:
        by_group = factors.reshape(groups, -1).repeat_interleave(len(weight) // groups, dim=0)
        weight.div_(by_group.reshape(*by_group.shape, *[1] * (weight.ndim - 2)))
    else:
        per = weight.shape[1] // len(factors)
        weight.div_(factors.repeat_interleave(per).reshape(1, -1, *[1] * (weight.ndim - 2)))
