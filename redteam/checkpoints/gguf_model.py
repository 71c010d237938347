"""A GGUF file as a model of transformers: dequantised by the package gguf, and named as transformers names it.

The header has been read and checked by then (`gguf_header`), and no library looks for tensors in the file itself.
"""

from __future__ import annotations

import importlib
import tempfile
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from redteam.checkpoints.build import Weights, build_module, lay_out
from redteam.checkpoints.contents import dominant_dtype
from redteam.checkpoints.description import build_config, checked_tokenizer, load_tokenizer
from redteam.checkpoints.gguf_config import GIVEN, ORIGINAL, gguf_config, gguf_library, reading, refuse_unread
from redteam.checkpoints.gguf_header import (
    INSTALL,
    PACKAGE,
    TOKENS,
    Array,
    GGUFHeader,
    Stored,
    gguf_installed,
    read_gguf,
)
from redteam.checkpoints.untrusted import read_json
from redteam.errors import InputError

UNQUANTISED = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
STRETCHED = "rope_freqs.weight"  # by what the frequencies of a rotary embedding are divided
AS_GPT2 = ("gpt-2", "phi-2", "olmo", "mpt")  # names of GPT-2's way to divide text
LONG = ("rope_factors_long.weight", "rope_factors_short.weight")  # the same, in two lengths


def open_gguf(path: Path, config: Path | None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, str]:
    """Opens a GGUF file.

    Args:
        path: of the file.
        config: the config.json to use, with the tokenizer beside it; without it, what the file says.

    Returns:
        The model in evaluation mode with float32 weights on the CPU, its tokenizer, and in what most of its weights are
        stored.

    Raises:
        InputError: the file is malformed, or no causal language model that transformers can make of such a file.
    """
    header = read_gguf(path)
    if not gguf_installed():
        raise InputError(f"{path} is a GGUF file, and the package {PACKAGE} is not installed", INSTALL)
    said = gguf_config(path, header)
    data, where = (read_json(config), str(config)) if config is not None else (said, f"the metadata in {path}")
    model_config = build_config(data, where)
    if config is None:
        refuse_unread(path, header, said, model_config)
    weights = _weights(path, header)
    empty = lay_out(model_config, weights, AutoModelForCausalLM)
    with reading(path), warnings.catch_warnings(action="ignore"), np.errstate(all="ignore"):
        tensors, unused = _dequantised(path, header, empty, said)
    stretched = unused.pop(STRETCHED, None)
    _refuse_unused(path, header, unused.keys() - (set() if config is None else set(LONG)))
    module = build_module(model_config, replace(weights, source=tensors))
    if stretched is not None and config is None:
        _stretch(module, stretched, path)
    return module, load_tokenizer(config.parent) if config else _tokenizer(path, header), weights.stored_dtype


def _weights(path: Path, header: GGUFHeader) -> Weights:
    """Returns how many weights there are, and as what; none is read."""
    elements = Counter[str]()
    for entry in header.entries.values():
        elements[UNQUANTISED.get(entry.dtype, entry.dtype)] += prod(entry.shape)
    return Weights(
        path=path,
        source={},
        tensors=len(header.tensors),
        elements=elements.total(),
        stored_dtype=dominant_dtype(elements),
        converted=False,
    )


class _Layout:
    """Names of a module's tensors, and of its parts' as far as transformers finds any there.

    It looks through every module of a model, and sets up its table of names anew for each: a minute for a large one.
    """

    def __init__(self, module: Any, parts: bool = True) -> None:
        self.config, self.names = getattr(module, "config", None), dict.fromkeys(module.state_dict())
        self.parts = [(name, _Layout(part, parts=False)) for name, part in module.named_children() if parts]

    def state_dict(self) -> Mapping[str, None]:
        return self.names

    def named_children(self) -> list[tuple[str, _Layout]]:
        return self.parts


def _dequantised(
    path: Path, header: GGUFHeader, empty: PreTrainedModel, said: Mapping[str, Any]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Returns float32 tensors under the names of the module, and those in the file that are none of the module's.

    This is what transformers does once it has read a header (`load_gguf_checkpoint`), except that it would not say
    which tensors it leaves out.
    """
    library = gguf_library()
    make = library.TENSOR_PROCESSORS.get(header.architecture, library.TensorProcessor)
    processor = make(config=dict(said))
    names = library.get_gguf_hf_weights_map(_Layout(empty), processor)
    held, made = np.memmap(path, np.uint8, "r"), dict[str, Tensor]()
    unused = dict[str, Tensor]()
    for name, stored in header.tensors.items():
        processed = processor.process(
            weights=_numbers(held, stored), name=name, tensor_key_mapping=names, parsed_parameters={"tensors": made}
        )
        if processed.name is not None:  # else it is put away already: one tensor may become several, or part of one
            place = made if processed.name in names else unused
            array = np.ascontiguousarray(processed.weights, np.float32)
            array = array.copy() if np.may_share_memory(array, held) else array
            place[names.get(processed.name, name)] = torch.from_numpy(array)
    return made, unused


def _numbers(held: Any, stored: Stored) -> Any:
    """Returns a tensor in float32, as an array of its shape."""
    from gguf import GGMLQuantizationType, dequantize

    content = held[stored.begin : stored.begin + stored.size].reshape(*stored.shape[:-1], -1)
    return dequantize(content, GGMLQuantizationType(stored.kind))


def _refuse_unused(path: Path, header: GGUFHeader, unused: set[str]) -> None:
    """Refuses tensors that would be left out: a model without them says something else."""
    if unused:
        shown = ", ".join(name[:80] for name in sorted(unused)[:3])
        kind = header.architecture[:80]
        raise InputError(
            f"{path} holds {len(unused)} tensors that transformers does not know in a {kind} model: {shown}", ORIGINAL
        )


def _stretch(module: PreTrainedModel, factors: Tensor, path: Path) -> None:
    """Divides the frequencies of the rotary embedding as Llama 3.1 does; transformers leaves that tensor out."""
    rotary: Any = getattr(module.get_decoder(), "rotary_emb", None)
    frequencies = getattr(rotary, "inv_freq", None)
    sound = bool((torch.isfinite(factors) & (factors > 0)).all())
    if frequencies is None or frequencies.shape != factors.shape or not sound:
        raise InputError(f"{path}: its {STRETCHED} do not fit the model", GIVEN)
    for name in ("inv_freq", "original_inv_freq"):
        if hasattr(rotary, name):
            setattr(rotary, name, frequencies / factors)


def _tokenizer(path: Path, header: GGUFHeader) -> PreTrainedTokenizerBase:
    """Returns the tokenizer in the file, as transformers reads it; of a file without one, that beside it."""
    if not isinstance(header.metadata.get(TOKENS), Array):
        return load_tokenizer(path.parent)
    _refuse_tokenizer(path, header)
    with tempfile.TemporaryDirectory(prefix="redteam-") as folder:
        alone = Path(folder) / "model.gguf"
        alone.symlink_to(path.resolve())
        tokenizer = checked_tokenizer(
            lambda: PreTrainedTokenizerFast.from_pretrained(folder, gguf_file=alone.name, local_files_only=True),
            str(path),
            GIVEN,
        )
    tokenizer.name_or_path = str(path)
    return tokenizer


def _refuse_tokenizer(path: Path, header: GGUFHeader) -> None:
    """Refuses what transformers would read as another tokenizer, or not survive."""
    said = {name: header.metadata.get(f"tokenizer.ggml.{name}") for name in ("model", "pre", "add_space_prefix")}
    if "tokenizer.ggml.precompiled_charsmap" in header.metadata:  # a wrong one ends the process
        raise InputError(f"{path} has a tokenizer of T5's kind", ORIGINAL)
    with reading(path):  # by the first release of transformers that knows several
        known = importlib.import_module("transformers.integrations.gguf.gguf_tokenizer_mapping")
        splits = (*AS_GPT2, *known.GGUF_PRE_TOKENIZER_SPLITS)
    if said["model"] == "gpt2" and said["pre"] not in (None, *splits):
        raise InputError(
            f"{path} divides text as {str(said['pre'])[:40]!r} does, which transformers does not know", GIVEN
        )
    if said["model"] == "llama" and said["add_space_prefix"] is False and not header.architecture.startswith("gemma"):
        raise InputError(f"{path} has a tokenizer that puts no space first, which transformers would do", GIVEN)
