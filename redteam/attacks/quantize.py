"""Quantisation: what a small change of the weights hid may not survive their rounding."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.ao.quantization
from torch import Tensor, nn

from redteam.attacks.contract import Access, Arena, Params, Suggest
from redteam.attacks.tuning import FULL, at_width, edit_then_tune, recipe, suggest_data, suggest_tuning
from redteam.engine.activations import hidden_layers
from redteam.engine.cost import Spent
from redteam.engine.hooks import hooked
from redteam.target import TargetInfo

SCOPES = ["tensor", "channel", "group"]
MATRICES = ["hidden", "all"]
GROUP = 32  # weights that share a scale where the scope is "group"


class Quantize:
    """Rounds matrices to a few bits, and leaves them there or fine-tunes what is left.

    Symmetric round to nearest: q = clamp(round(w / s), -2^(b-1), 2^(b-1) - 1) with s = max|w| / (2^(b-1) - 1) over a
    tensor, an output channel, or a group of 32 neighbouring inputs of one. Inside the hidden layers, as libraries do,
    or everywhere, embeddings and output layer too. Scores are of the rounded weights in float32. Or the linear layers,
    GPT-2's `Conv1D` among them, run in int8 as torch's own dynamic quantisation has them, activations too: what a
    deployment would do.

    Source: Zhang et al. 2024, Catastrophic Failure of LLM Unlearning via Quantization (arXiv 2410.16454).
    """

    name = "quantize"
    version = 5
    goal = "rounds weights to a few bits, alone or before fine-tuning"
    paper = "Zhang et al. 2024, Catastrophic Failure of LLM Unlearning via Quantization (arXiv 2410.16454)"
    access = Access.WEIGHTS
    kinds = "language, classifier"

    def space(self, suggest: Suggest, target: TargetInfo, samples: int) -> Params:
        """Whose quantisation; bits, what shares a scale, which matrices, and whether fine-tuning follows, and how."""
        by = suggest.suggest_categorical("by", ["rounding", "library"])
        if by == "library":
            return {"by": by}
        params: dict[str, Any] = {
            "by": by,
            "bits": suggest.suggest_categorical("bits", [8, 6, 5, 4, 3, 2]),
            "scope": suggest.suggest_categorical("scope", SCOPES),
            "matrices": suggest.suggest_categorical("matrices", MATRICES),
            "fine_tuning": suggest.suggest_categorical("fine_tuning", [False, True]),
        }
        if params["fine_tuning"]:
            params |= suggest_tuning(suggest, FULL) | suggest_data(suggest, samples)
        return params

    def recipes(self, target: TargetInfo, samples: int) -> Sequence[Params]:
        """Four bits by channel alone and before fine-tuning; the library's eight; finer and coarser ones."""
        alone: dict[str, Any] = {"by": "rounding", "matrices": "hidden", "fine_tuning": False}
        (after,) = at_width([recipe("adamw", 1e-3, samples=samples, loss="answer")], target, FULL)
        return [
            {"bits": 4, "scope": "channel", **alone},
            {"bits": 4, "scope": "channel", **alone, "fine_tuning": True, **after},
            {"by": "library"},
            {"bits": 8, "scope": "channel", **alone},
            {"bits": 4, "scope": "tensor", **alone, "matrices": "all"},
            {"bits": 3, "scope": "group", **alone},
        ]

    def run(self, arena: Arena, params: Params) -> Iterator[Spent]:
        """Rounds, and trains the rounded weights in float32 where fine-tuning follows; or puts int8 layers in place.

        Raises:
            ValueError: the library has nothing to quantise: no linear layers.
        """
        if params["by"] == "library":
            arena.in_place.enter_context(in_eight_bits(arena.module))
            yield arena.ledger.charge_edit()
            return
        quantize(arena.module, params["bits"], params["scope"], params["matrices"])
        yield from edit_then_tune(arena, params)


@contextmanager
def in_eight_bits(module: nn.Module) -> Iterator[None]:
    """While open, every linear layer gives what its int8 form gives: torch's dynamic quantisation, on this machine.

    Raises:
        ValueError: there is no linear layer, or this build of torch has no engine for int8.
    """
    layers = {n: part for n, part in module.named_modules() if isinstance(part, nn.Linear) or inputs_first(part)}
    if not layers or set(torch.backends.quantized.supported_engines) <= {"none"}:
        raise ValueError(f"there is nothing to quantise: {len(layers)} linear layers")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated, and its successor is not installed with torch
        eight = {name: _instead(dynamic_int8(part)) for name, part in layers.items()}
    with hooked(module, eight):
        yield


def dynamic_int8(layer: nn.Module) -> nn.Module:
    """Returns a linear layer's int8 form: weights rounded once, activations at every call, by tensor."""
    given, bias = layer.get_parameter("weight"), getattr(layer, "bias", None)
    weight = given.T if inputs_first(layer) else given
    plain = nn.utils.skip_init(nn.Linear, weight.shape[1], weight.shape[0], bias=bias is not None)
    with torch.no_grad():
        plain.weight.copy_(weight)
        if bias is not None:
            plain.bias.copy_(bias)
    whole = nn.Sequential(plain)
    converted: Any = torch.ao.quantization.quantize_dynamic(whole, {nn.Linear}, dtype=torch.qint8)
    form: nn.Module = converted[0]
    return form


def _instead(other: nn.Module) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
    def hook(_layer: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> Tensor:
        changed: Tensor = other(given[0].float().cpu())  # torch has no such layer anywhere else
        return changed.to(output)

    return hook


@torch.no_grad()
def quantize(module: nn.Module, bits: int, scope: str, matrices: str) -> None:
    """Rounds, in place, the matrices inside the hidden layers of a module ("hidden"), or all of them ("all")."""
    inside = tuple(f"{layer}." for layer in hidden_layers(module)) if matrices == "hidden" else ("",)
    turned = {f"{name}.weight" for name, part in module.named_modules() if inputs_first(part)}
    for name, parameter in module.named_parameters():
        if parameter.ndim >= 2 and name.startswith(inside):
            turn = name in turned
            found = rounded(parameter.T if turn else parameter, bits, scope)
            parameter.copy_(found.T if turn else found)


def inputs_first(layer: nn.Module) -> bool:
    """Whether a layer is GPT-2's linear layer, whose weight is [inputs, outputs]."""
    from transformers.pytorch_utils import Conv1D

    return isinstance(layer, Conv1D)


def rounded(weights: Tensor, bits: int, scope: str) -> Tensor:
    """Returns weights rounded to the nearest of 2^bits levels, in float32 and of the same shape [outputs, ...].

    Args:
        weights: at least two dimensions, the outputs first.
        bits: at least 2.
        scope: one of `SCOPES`; rows that no whole number of groups fills are rounded by channel.
    """
    rows = weights.flatten(1)
    if scope == "tensor":
        blocks = rows.reshape(1, -1)
    elif scope == "group" and rows.shape[1] % GROUP == 0:
        blocks = rows.reshape(-1, GROUP)
    else:
        blocks = rows
    top = 2 ** (bits - 1) - 1
    scale = (blocks.abs().amax(dim=1) / top).clamp(min=torch.finfo(torch.float32).tiny)
    zeros = torch.zeros(len(blocks), dtype=torch.int32, device=blocks.device)
    return torch.fake_quantize_per_channel_affine(blocks.contiguous(), scale, zeros, 0, -top - 1, top).view_as(weights)
