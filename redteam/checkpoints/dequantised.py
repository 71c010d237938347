"""Weights of transformers that are quantised already, as the float32 tensors that they stand for, to the bit.

Each reading is the few lines of arithmetic that the method is; tests hold them against the library that wrote the file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from math import prod
from typing import Any

import torch
from torch import Tensor

from redteam.checkpoints.build import Weights
from redteam.checkpoints.contents import as_float32, load_tensors, strip_prefix
from redteam.checkpoints.quantised import method_of
from redteam.checkpoints.shards import shard_paths
from redteam.errors import InputError

State = dict[str, Tensor]
FLOAT8 = torch.float8_e4m3fn
# What four bits stand for in OCP's microscaling format: sign, two bits of exponent, one of mantissa (E2M1).
E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)
STEP = 7.874015718698502e-3  # 1/127, as bitsandbytes writes it
STATE = re.compile(r"(.+)\.quant_state\.bitsandbytes__(nf4|fp4)")
MAX_BLOCK = 2**16  # values that share a scale; the largest known are 4,096


def dequantised(weights: Weights, said: Any) -> Weights:
    """Returns the weights in float32.

    Args:
        weights: of a Hugging Face directory.
        said: what its config holds under `quantised.KEY`; the method is one that can be read.

    Raises:
        InputError: they are not what that method writes.
    """
    method, path = str(method_of(said)), weights.path
    if isinstance(weights.source, Mapping) or any(
        file.suffix != ".safetensors" for file in shard_paths(weights.source)
    ):
        raise InputError(
            f"{path} is described as quantised by {method}, and is no directory of safetensors",
            "Give the directory that save_pretrained wrote",
        )
    stored = strip_prefix({n: t for shard in shard_paths(weights.source) for n, t in load_tensors(shard).items()})
    try:
        made, kind = READERS[method](stored, said)
        if not made:
            raise ValueError("none of its tensors is")
    except (ValueError, KeyError, TypeError, IndexError, RuntimeError) as error:  # out of a file nobody vouches for
        raise InputError(
            f"{path} is described as quantised by {method}, and does not hold what that writes ({str(error)[:200]})",
            "Give the directory as it was written, or weights in 16 or 32 bits",
        ) from error
    return replace(weights, source={**as_float32(stored, path), **made}, stored_dtype=kind, converted=True)


def _fp8(stored: State, said: Mapping[str, Any]) -> tuple[State, str]:
    """Reads 8-bit floats with a scale for each block of a matrix (DeepSeek-AI 2024, arXiv 2412.19437)."""
    if said.get("activation_scheme", "dynamic") != "dynamic":
        raise ValueError("its activations have a scale of their own")
    block, made = said.get("weight_block_size"), State()
    for name in [name for name in stored if name.endswith(".weight_scale_inv")]:
        scale, matrix = stored.pop(name), name.removesuffix("_scale_inv")
        weight = stored.pop(matrix)
        rows, columns = weight.shape
        high, wide = (int(size) for size in block) if block is not None else (rows, columns)
        wanted = (-(-rows // high), -(-columns // wide)) if min(high, wide) > 0 else ()
        if (
            weight.dtype != FLOAT8
            or scale.dtype not in (torch.float32, torch.bfloat16)
            or scale.numel() != prod(wanted)
        ):
            raise ValueError(f"{name[:80]} does not fit its weight")
        spread = scale.float().reshape(wanted).repeat_interleave(min(high, rows), 0)[:rows]
        made[matrix] = weight.float().mul_(spread.repeat_interleave(min(wide, columns), 1)[:, :columns])
    return made, "float8_e4m3fn"


def _mxfp4(stored: State, said: Mapping[str, Any]) -> tuple[State, str]:
    """Reads 4-bit floats in blocks of 32 with a common power of two (OCP Microscaling Formats 1.0), as in gpt-oss."""
    table, made = torch.tensor(E2M1), State()
    for name in [name for name in stored if name.endswith("_blocks")]:
        blocks, matrix = stored.pop(name), name.removesuffix("_blocks")
        scales = stored.pop(f"{matrix}_scales")
        if (blocks.dtype, scales.dtype) != (torch.uint8,) * 2 or blocks.shape[:-1] != scales.shape or blocks.ndim != 4:
            raise ValueError(f"{name[:80]} does not fit its scales")
        experts = [
            torch.ldexp(_nibbles(held, table, low_first=True).flatten(-2), scale.int()[..., None] - 127).flatten(1).T
            for held, scale in zip(blocks, scales, strict=True)
        ]
        made[matrix] = torch.stack(experts).contiguous()
    return made, "mxfp4"


def _bitsandbytes(stored: State, said: Mapping[str, Any]) -> tuple[State, str]:
    """Reads what bitsandbytes writes: 8-bit integers with a scale a row (Dettmers et al. 2022, arXiv 2208.07339).

    Or 4 bits that stand for places in a table, with a scale a block (Dettmers et al. 2023, arXiv 2305.14314).
    """
    made, kind = State(), "int8"
    for name in [name for name in stored if name.endswith(".SCB")]:
        module = name.removesuffix(".SCB")
        scale, weight, form = (
            stored.pop(name),
            stored.pop(f"{module}.weight"),
            stored.pop(f"{module}.weight_format", None),
        )
        if weight.dtype != torch.int8 or (len(weight),) != scale.shape or (form is not None and form.item() != 0):
            raise ValueError(f"{name[:80]} does not fit its weight")
        made[f"{module}.weight"] = weight.float().mul_(scale.float()[:, None]).mul_(STEP)
    for name in [name for name in stored if STATE.fullmatch(name)]:
        matrix, kind = STATE.fullmatch(name).groups()  # type: ignore[union-attr]
        made[matrix] = _four_bits(stored, matrix, json.loads(bytes(stored.pop(name).tolist())))
    return made, kind


def _four_bits(stored: State, name: str, state: Mapping[str, Any]) -> Tensor:
    """Takes one matrix and what belongs to it out of the stored tensors."""
    packed, table = stored.pop(name), stored.pop(f"{name}.quant_map").float()
    scale, shape = stored.pop(f"{name}.absmax"), [int(size) for size in state["shape"]]
    if "nested_blocksize" in state:
        nested, codes = stored.pop(f"{name}.nested_absmax"), stored.pop(f"{name}.nested_quant_map").float()
        scale = _spread(codes[scale.int()], nested, state["nested_blocksize"]) + float(state["nested_offset"])
    values = _nibbles(packed.contiguous().view(torch.uint8).flatten(), table, low_first=False).flatten()
    if table.shape != (16,) or min(shape) < 1 or values.numel() - prod(shape) not in (0, 1):
        raise ValueError(f"{name[:80]} is not of the shape {str(shape)[:80]}")
    return _spread(values[: prod(shape)], scale, state["blocksize"]).reshape(shape)


def _spread(values: Tensor, scale: Tensor, block: Any) -> Tensor:
    """Multiplies values, each block of them with its scale."""
    if type(block) is not int or not 0 < block <= MAX_BLOCK or scale.shape != (-(-values.numel() // block),):
        raise ValueError(f"{scale.numel()} scales of blocks of {str(block)[:20]} for {values.numel()} values")
    return values.mul_(scale.float().repeat_interleave(block)[: values.numel()])


def _nibbles(packed: Tensor, table: Tensor, *, low_first: bool) -> Tensor:
    """Returns what both halves of each byte stand for, in a further dimension of two."""
    halves = (packed & 15, packed >> 4) if low_first else (packed >> 4, packed & 15)
    return table[torch.stack(halves, -1).int()]


READERS: Mapping[str, Callable[[State, Mapping[str, Any]], tuple[State, str]]] = {
    "bitsandbytes": _bitsandbytes,
    "fp8": _fp8,
    "mxfp4": _mxfp4,
}
