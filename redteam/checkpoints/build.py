"""A module of transformers from a config and weights, with every difference between them refused.

transformers would initialise missing weights at random and only warn: an attack on such a model says nothing.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.module import register_module_module_registration_hook
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from redteam.checkpoints.contents import as_float32, load_tensors, named_as, strip_prefix
from redteam.checkpoints.shards import shard_paths
from redteam.errors import InputError

SHOWN = 2  # names quoted per kind of difference
KINDS = {
    "AutoModelForCausalLM": "causal language model",
    "AutoModelForImageClassification": "image classifier",
    "AutoModelForSequenceClassification": "text classifier",
}
MODULES, MODULES_PER_TENSOR = 1_000, 20  # a language model has two for each tensor, one that shares layers a few more
SIZED = re.compile(r"size|dim|embd|inner|d_model|d_ff")
SLACK = 10_000_000  # parameters: a small model may differ from its config by a large factor


@dataclass(frozen=True, kw_only=True, slots=True)
class Weights:
    """Weights that are checked but not yet in a module.

    Attributes:
        path: the checkpoint, for messages.
        source: a Hugging Face directory that transformers reads itself, or float32 tensors by name.
        tensors: number of tensors.
        elements: number of their elements.
        stored_dtype: what most of the elements are stored in.
        converted: whether all are stored in something else than float32, so that none can be used as it lies in a file.
    """

    path: Path
    source: Path | Mapping[str, Tensor]
    tensors: int
    elements: int
    stored_dtype: str
    converted: bool

    def tensors_by_name(self) -> Mapping[str, Tensor]:
        """Returns float32 tensors by name, prefixes of wrappers stripped; those of a directory are read now."""
        if isinstance(self.source, Mapping):
            return self.source
        stored = {name: tensor for shard in shard_paths(self.source) for name, tensor in load_tensors(shard).items()}
        return as_float32(strip_prefix(stored), self.path)


def build_module(config: PreTrainedConfig, weights: Weights, auto: Any = AutoModelForCausalLM) -> PreTrainedModel:
    """Builds the module in evaluation mode with float32 weights on the CPU.

    Nothing is initialised at random: the module is laid out on the meta device and the tensors are put in. Tied
    weights may be absent from the file.

    Args:
        config: of the model.
        weights: checked, not yet in a module.
        auto: the auto class of transformers whose models are meant.

    Raises:
        InputError: the config is of no such model, or does not fit the weights.
    """
    empty = lay_out(config, weights, auto)
    model_class, source = type(empty), weights.source
    if isinstance(source, Mapping):
        source = named_as(empty.state_dict().keys(), source)
    try:
        loaded: Any = model_class.from_pretrained(
            str(source) if isinstance(source, Path) else None,
            config=config,
            state_dict=None if isinstance(source, Path) else dict(source),
            dtype=torch.float32,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            # Not to accept them: without it transformers raises before it has told which they are.
            ignore_mismatched_sizes=True,
        )
    except Exception as error:  # loading code of many architectures
        raise InputError(
            f"{weights.path} cannot be loaded as a {config.model_type} model ({str(error)[:200]})",
            "Check that config.json belongs to these weights",
        ) from error
    module: PreTrainedModel = loaded[0]
    refuse_difference(loaded[1], weights.path)
    if isinstance(source, Path) and not weights.converted:
        _own_memory(module)
    return module


def lay_out(config: PreTrainedConfig, weights: Weights, auto: Any) -> PreTrainedModel:
    """Returns the module without memory, once its sizes are plausible: a config may claim any size.

    Raises:
        InputError: they are not, or the config is of no such model.
    """
    if getattr(config, "num_hidden_layers", 0) > weights.tensors:
        raise InputError(
            f"the config describes {config.num_hidden_layers} layers, "
            f"but {weights.path} holds {weights.tensors} tensors",
            "Give the config.json that belongs to these weights",
        )
    _refuse_parameters(max(_sizes(vars(config)), default=0), weights)
    try:
        with _at_most(MODULES + MODULES_PER_TENSOR * weights.tensors), torch.device("meta"):
            empty: PreTrainedModel = auto.from_config(config, trust_remote_code=False)
    except Exception as error:  # every architecture checks its config in its own way
        raise InputError(
            f"{weights.path}: no {KINDS[auto.__name__]} can be built from its config "
            f"({str(error).splitlines()[0][:200] if str(error) else type(error).__name__})",
            f"Give the config.json of a {KINDS[auto.__name__]}",
        ) from error
    wanted = sum(tensor.numel() for tensor in (*empty.parameters(), *empty.buffers()))
    _refuse_parameters(wanted, weights)
    return empty


def _refuse_parameters(wanted: int, weights: Weights) -> None:
    if wanted > 4 * weights.elements + SLACK:
        raise InputError(
            f"the config describes {min(wanted, 2**63)} parameters, but {weights.path} holds {weights.elements}",
            "Give the config.json that belongs to these weights",
        )


def _sizes(data: Mapping[str, Any]) -> Iterator[int]:
    """Yields the sizes of dimensions in a config: each is a number of parameters too, and some are not laid out."""
    for key, value in data.items():
        if isinstance(value, dict | PreTrainedConfig):
            yield from _sizes(value if isinstance(value, dict) else vars(value))
        elif SIZED.search(str(key)):
            listed = value if isinstance(value, list | tuple) else [value]
            yield from (size for size in listed if isinstance(size, int))


@contextmanager
def _at_most(modules: int) -> Iterator[None]:
    """Raises a ValueError as soon as the body has made more modules, of which a config may name any number."""
    made = itertools.count()

    def count(*_: object) -> None:
        if next(made) > modules:
            raise ValueError(f"it describes more than {modules} modules")

    with register_module_module_registration_hook(count):
        yield


@torch.no_grad()
def _own_memory(module: PreTrainedModel) -> None:
    """Copies weights out of the mapped file: float32 ones still lie in it, and change if somebody writes there."""
    for tensor in (*module.parameters(), *module.buffers()):
        tensor.data = tensor.detach().clone(memory_format=torch.contiguous_format)


def refuse_difference(report: Mapping[str, Any], path: Path, wanted_by: str = "its config") -> None:
    """Refuses weights that are not those of the module.

    Args:
        report: "missing_keys", "unexpected_keys", "mismatched_keys" (name, shape in the file, shape of the module),
            and "error_msgs" if there are any.
        path: of the checkpoint, for messages.
        wanted_by: what says how the module is built, for messages.

    Raises:
        InputError: there is a difference; it names the first few.
    """
    shapes = [
        f"{name}: file {tuple(stored)}, wanted {tuple(wanted)}"
        for name, stored, wanted in sorted(report["mismatched_keys"])
    ]
    parts = [
        f"{title} {_first(entries)}"
        for title, entries in (
            ("missing:", report["missing_keys"]),
            ("unexpected:", report["unexpected_keys"]),
            ("shape of", shapes),
            ("errors:", report.get("error_msgs", ())),
        )
        if entries
    ]
    if parts:
        raise InputError(
            f"{path} does not fit {wanted_by}: {'; '.join(parts)}",
            "Give the one that belongs to these weights",
        )


def _first(entries: Collection[str]) -> str:
    shown = ", ".join(entry[:200] for entry in sorted(entries)[:SHOWN])
    return f"{shown} (+{len(entries) - SHOWN} more)" if len(entries) > SHOWN else shown
