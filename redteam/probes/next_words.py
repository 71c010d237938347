"""What a language model would say next, whatever its choices are."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from redteam.capabilities.scorers.choices import EncodedChoices
from redteam.capabilities.scorers.contract import SCORING_BATCH
from redteam.engine.accumulation import read_in_order

OF_EACH, MOST = 8, 512  # tokens of an item that may be said, and of all items


def next_words(module: nn.Module, parts: Sequence[EncodedChoices]) -> list[NDArray[np.float64]]:
    """Returns the probabilities of the tokens that come next after each prompt, [items, tokens] of each part.

    The tokens are those that are most often among the likeliest of the first part's items.

    Args:
        module: in evaluation mode.
        parts: the items.
    """
    likeliest = _read(module, parts[0], lambda belief: belief.topk(min(OF_EACH, belief.shape[1])).indices)
    words, times = likeliest.unique(return_counts=True)
    words = words[times.argsort(descending=True, stable=True)[:MOST]]
    return [_read(module, part, lambda belief: belief[:, words.to(belief.device)]).double().numpy() for part in parts]


@torch.no_grad()
def _read(module: nn.Module, encoded: EncodedChoices, pick: Callable[[Tensor], Tensor]) -> Tensor:
    """Returns what is picked of the softmax over all tokens after each prompt, [items, ...]."""
    counts = torch.ones_like(encoded.counts) if encoded.single is not None else encoded.counts
    first = counts.cumsum(0) - counts  # the row of an item's first choice: all of its rows begin with the prompt
    rows, ends = encoded.rows.take(first), encoded.ends[first]

    def read(some: slice) -> Tensor:
        columns, places = ends[some].unique(return_inverse=True)
        logits = rows.batch(some).logits(module, columns)
        return pick(logits[torch.arange(len(logits)), places].float().softmax(-1)).cpu()

    return torch.cat(read_in_order(rows, SCORING_BATCH, read))
