"""Hidden states for probes: at the position that predicts each answer, in every decoder layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from redteam.capabilities.encode import encode_answers
from redteam.capabilities.items import Item
from redteam.capabilities.scorers import SCORING_BATCH
from redteam.engine.activations import captured, decoder_layers
from redteam.engine.batches import IGNORED
from redteam.probes.contract import Layers

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@torch.no_grad()
def read_layers(module: nn.Module, tokenizer: PreTrainedTokenizerBase, items: tuple[Item, ...]) -> Layers:
    """Returns the states of `items`, [items, hidden] for each layer, copied to float32 arrays."""
    data = encode_answers(tokenizer, items)
    names = decoder_layers(module)
    parts: dict[str, list[np.ndarray]] = {name: [] for name in names}
    with captured(module, names) as states:
        for start in range(0, len(data), SCORING_BATCH):
            batch = data.batch(slice(start, start + SCORING_BATCH))
            module(input_ids=batch.input_ids, attention_mask=batch.mask, use_cache=False)
            before_answer = (batch.labels != IGNORED).int().argmax(dim=1) - 1
            for name in names:
                rows = states[name][torch.arange(len(before_answer)), before_answer]
                parts[name].append(rows.float().cpu().numpy())
    return Layers(items=items, states={name: np.concatenate(chunks) for name, chunks in parts.items()})
