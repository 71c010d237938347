"""Hidden states for probes, in every hidden layer: of a language model where it predicts each answer, and before."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from redteam.capabilities.items import Capability, Item
from redteam.capabilities.reading import encode_training
from redteam.capabilities.scorers import SCORING_BATCH
from redteam.engine.activations import UnknownLayers, captured, hidden_layers
from redteam.engine.batches import IGNORED, AnyBatch, Batch, ordered_batches
from redteam.probes.contract import Layers, Part

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@torch.no_grad()
def read_layers(
    module: nn.Module, tokenizer: PreTrainedTokenizerBase | None, capability: Capability, items: tuple[Item, ...]
) -> Layers:
    """Returns the states of `items`, [items, hidden] for each place, copied to float32 arrays.

    Of a language model there are two places a layer: the position that predicts the answer ("model.layers.1, last"),
    and the mean over that and all positions before it, the start token with them ("model.layers.1, mean"): a fact that
    was hidden from the answer's position can still be in those of its subject. Of a classifier (no tokenizer) the
    outputs of its hidden layers, flattened ("layers.1"); of one of text the first token's, the last one's and the mean
    ("layer.1, first"), since heads read the first or the last. Layers that take no part are left out.

    Raises:
        UnknownLayers: the hidden layers cannot be told.
    """
    data = encode_training(capability, items, tokenizer)
    names = hidden_layers(module)
    parts: dict[str, list[np.ndarray]] = {}
    with captured(module, names) as states:
        for batch in ordered_batches(data, SCORING_BATCH):
            batch.logits(module)
            for name in (name for name in names if name in states):
                for position, rows in _rows(states[name], batch.to(states[name].device)).items():
                    parts.setdefault(name + position, []).append(rows.float().cpu().numpy())
    whole = {name: np.concatenate(chunks) for name, chunks in parts.items()}
    read = {name: states for name, states in whole.items() if len(states) == len(items)}
    if not read:
        raise UnknownLayers("no hidden layer has one state an item")
    return Layers(items=items, states=read)


def _rows(states: Tensor, batch: AnyBatch) -> dict[str, Tensor]:
    """Returns one state an item, [items, hidden], for each position by what its name ends with."""
    if batch.real.dim() == 1:
        return {"": states.flatten(1)}
    if isinstance(batch, Batch):
        end, first = (batch.labels != IGNORED).int().argmax(dim=1) - 1, {}
    else:
        end, first = batch.real.sum(dim=1) - 1, {", first": states[:, 0]}
    read = torch.arange(states.shape[1], device=end.device) <= end[:, None]
    # A padded position is zeroed by choosing, not multiplying: what stands there need not be finite.
    total = torch.where(read[..., None], states.float(), 0).sum(dim=1)
    return {**first, ", last": states[torch.arange(len(end)), end], ", mean": total / read.sum(dim=1, keepdim=True)}


def layers_of(
    module: nn.Module, tokenizer: PreTrainedTokenizerBase | None, capability: Capability
) -> Callable[[Part], Layers]:
    """Returns what reads the states of a split, once: asked again, it returns the same."""

    @cache
    def layers(part: Part) -> Layers:
        return read_layers(module, tokenizer, capability, getattr(capability, part))

    return layers
