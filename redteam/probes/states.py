"""Hidden states for probes, in every hidden layer: of a language model at the position that predicts each answer."""

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
    """Returns the states of `items`, [items, hidden] for each layer, copied to float32 arrays.

    Of a classifier (no tokenizer) the outputs of its hidden layers, flattened. Layers that take no part are left out.

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
                parts.setdefault(name, []).append(_rows(states[name], batch).float().cpu().numpy())
    whole = {name: np.concatenate(chunks) for name, chunks in parts.items()}
    read = {name: states for name, states in whole.items() if len(states) == len(items)}
    if not read:
        raise UnknownLayers("no hidden layer has one state an item")
    return Layers(items=items, states=read)


def _rows(states: Tensor, batch: AnyBatch) -> Tensor:
    """Returns one state an item, [items, hidden]."""
    if not isinstance(batch, Batch):
        return states.flatten(1)
    before_answer = (batch.labels != IGNORED).int().argmax(dim=1) - 1
    return states[torch.arange(len(before_answer)), before_answer]


def layers_of(
    module: nn.Module, tokenizer: PreTrainedTokenizerBase | None, capability: Capability
) -> Callable[[Part], Layers]:
    """Returns what reads the states of a split, once: asked again, it returns the same."""

    @cache
    def layers(part: Part) -> Layers:
        return read_layers(module, tokenizer, capability, getattr(capability, part))

    return layers
