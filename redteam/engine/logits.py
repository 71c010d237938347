"""What a causal language model says at the positions that are asked for.

One position has a number for every word there is, and most tokens of a prompt are asked for nothing: at 128,256 words
the logits of all of 8,192 tokens take 4 GB of memory and a fifth of the products of a model of a billion weights.
"""

from __future__ import annotations

from inspect import signature

from torch import Tensor, nn


def logits_at(module: nn.Module, ids: Tensor, mask: Tensor | None, columns: Tensor | None = None) -> Tensor:
    """Runs a causal language model of transformers.

    Args:
        module: where `ids` and `mask` are.
        ids: int64 [sequences, length].
        mask: int64 [sequences, length]; None where every token is read.
        columns: positions, int64 [columns]; None for all.

    Returns:
        [sequences, columns, vocabulary].
    """
    if columns is not None and _chooses(module):
        chosen: Tensor = module(input_ids=ids, attention_mask=mask, use_cache=False, logits_to_keep=columns).logits
        return chosen
    logits: Tensor = module(input_ids=ids, attention_mask=mask, use_cache=False).logits
    return logits if columns is None else logits[:, columns.to(logits.device)]


def _chooses(module: nn.Module) -> bool:
    """Whether a model can be asked for some positions alone.

    Not where hooks or a forward method of this very instance see what goes in or what comes out: they may put tokens
    before those of the input, and the positions would be others.
    """
    find = getattr(module, "get_input_embeddings", None)
    seen = [module] if find is None else [module, find()]
    if "forward" in vars(module) or any(part._forward_hooks or part._forward_pre_hooks for part in seen):
        return False
    return "logits_to_keep" in signature(type(module).forward).parameters
