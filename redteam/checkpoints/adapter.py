"""A PEFT adapter on its base: checked by names and shapes, put in by peft, and merged into the weights.

What is attacked is the merged model: whoever holds base and adapter holds it too.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from redteam.checkpoints.adapter_config import MERGE, PREFIX, adapted_modules, adapter_config
from redteam.checkpoints.build import refuse_difference
from redteam.checkpoints.contents import as_float32, load_tensors, read_contents, refuse_nonfinite
from redteam.checkpoints.legacy import read_torch
from redteam.checkpoints.shards import shard_paths
from redteam.errors import InputError, one_line

TOKENS, TOLERANCE = 16, 1e-3  # of the comparison of adapted and merged; relative to the largest logit


def merge_adapter(module: nn.Module, path: Path) -> nn.Module:
    """Puts an adapter on its base and merges it. The base is changed in place.

    Args:
        module: a causal language model of transformers, float32 on the CPU.
        path: directory of the adapter.

    Returns:
        The merged model in evaluation mode. On some tokens it says what base and adapter say.

    Raises:
        InputError: the adapter cannot be read, is not of this base, or cannot be merged.
    """
    from peft import LoraConfig, PeftModel
    from peft.utils import set_peft_model_state_dict

    settings, state = adapter_config(path), adapter_tensors(path)
    refuse_nonfinite(state, path)
    base: Any = module
    own = dict(module.named_parameters(remove_duplicate=False))  # by these names as long as peft has not been at it
    tokens = torch.arange(TOKENS)[None] % base.get_input_embeddings().num_embeddings
    try:
        with warnings.catch_warnings(action="ignore"):  # they quote the adapter
            config = LoraConfig(**settings, target_modules=adapted_modules(state), inference_mode=True)
            # Laid out without memory: nothing is made up, and what the adapter claims costs nothing.
            adapted = PeftModel(base, config, autocast_adapter_dtype=False, low_cpu_mem_usage=True)
            state = _fitting(adapted, state, own, path)
            set_peft_model_state_dict(adapted, state, low_cpu_mem_usage=True)
            before = _says(adapted.eval(), tokens)
            merged: nn.Module = adapted.merge_and_unload(safe_merge=True)
    except InputError:
        raise
    except Exception as error:  # peft checks what it is given in many ways
        message = one_line(str(error))[:200] or type(error).__name__
        raise InputError(f"{path} cannot be merged into this base ({message})", "Check that it is its base") from error
    for parameter in merged.parameters():
        parameter.requires_grad_(True)
    difference = float((_says(merged.eval(), tokens) - before).abs().max() / before.abs().max().clamp(min=1e-6))
    if not difference <= TOLERANCE:
        raise InputError(
            f"{path}: merged into the weights it says something else than beside them ({difference:.1%})", MERGE
        )
    return merged


def adapter_tensors(path: Path) -> dict[str, Tensor]:
    """Returns the tensors of an adapter in float32 by peft's names.

    Raises:
        InputError: they cannot be read, or there are none.
    """
    file = shard_paths(path)[0]
    stored = load_tensors(file) if file.suffix == ".safetensors" else read_contents(read_torch(file), file).state
    if not stored:
        raise InputError(f"{file} holds no tensors", "Save the adapter again")
    return as_float32(stored, path)


def _fitting(
    adapted: nn.Module, state: Mapping[str, Tensor], own: Mapping[str, Tensor], path: Path
) -> dict[str, Tensor]:
    """Returns the tensors that are, by name and shape, those of the adapter as its configuration describes it.

    Others are refused, unless they are copies of the base's `own`, bit for bit: peft saves adapted embeddings whole.
    """
    from peft.utils import get_peft_model_state_dict

    wanted = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    others = {name: own.get(name.removeprefix(PREFIX).replace(".base_layer.", ".")) for name in state.keys() - wanted}
    report = {
        "missing_keys": wanted.keys() - state.keys(),
        "unexpected_keys": {n for n, of in others.items() if of is None or not torch.equal(of, state[n])},
        "mismatched_keys": [
            (name, tuple(state[name].shape), tuple(tensor.shape))
            for name, tensor in wanted.items()
            if name in state and state[name].shape != tensor.shape
        ],
        "error_msgs": [
            f"{name} is stored as {str(tensor.dtype).removeprefix('torch.')}"
            for name, tensor in state.items()
            if name in wanted and wanted[name].is_floating_point() != tensor.is_floating_point()
        ],
    }
    refuse_difference(report, path, wanted_by="this base")
    return {name: state[name] for name in wanted}


@torch.no_grad()
def _says(module: nn.Module, tokens: Tensor) -> Tensor:
    """Returns the logits, float32 [1, tokens, vocabulary]."""
    logits: Tensor = module(input_ids=tokens, use_cache=False).logits
    return logits.float()
