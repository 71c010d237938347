"""Hidden states for probes, in every hidden layer: of a language model where it predicts each answer, and before."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from redteam.capabilities.items import Capability, Item
from redteam.capabilities.reading import encode_training
from redteam.capabilities.scorers.contract import SCORING_BATCH
from redteam.engine.activations import UnknownLayers, captured, hidden_layers, run
from redteam.engine.batches import IGNORED, AnyBatch, Batch, ordered_batches
from redteam.probes.contract import Layers, Part

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

WIDEST = 2048  # features of a state that is read as it is: covariances of many more take more memory than there is
POOLED = 256  # features of a wider one: convolutional nets have dozens of layers, and 2048 take half a minute in each
POOLS: Mapping[int, Callable[..., Tensor]] = {  # by the number of dimensions beside channels
    1: functional.adaptive_avg_pool1d,
    2: functional.adaptive_avg_pool2d,
    3: functional.adaptive_avg_pool3d,
}


@torch.no_grad()
def read_layers(
    module: nn.Module, tokenizer: PreTrainedTokenizerBase | None, capability: Capability, items: tuple[Item, ...]
) -> Layers:
    """Returns the states of `items`, [items, hidden] for each place, copied to float32 arrays.

    Of a language model there are two places a layer: the position that predicts the answer ("model.layers.1, last"),
    and the mean over that and all positions before it, the start token with them ("model.layers.1, mean"): a fact that
    was hidden from the answer's position can still be in those of its subject. Of a classifier (no tokenizer) the
    outputs of its hidden layers, flattened ("layers.1"), and pooled where that were too many, see `_flat`; of one of
    text the first token's, the last one's and the mean ("layer.1, first"), since heads read the first or the last.
    Layers that take no part are left out.

    Raises:
        UnknownLayers: the hidden layers cannot be told.
    """
    data = encode_training(capability, items, tokenizer)
    names = hidden_layers(module)
    parts: dict[str, list[np.ndarray]] = {}
    with captured(module, names) as states:
        for batch in ordered_batches(data, SCORING_BATCH):
            run(module, batch)
            for name in (name for name in names if name in states):
                layer = module.get_submodule(name)
                for position, rows in _rows(states[name], batch.to(states[name].device), layer).items():
                    parts.setdefault(name + position, []).append(rows.float().cpu().numpy())
    whole = {name: np.concatenate(chunks) for name, chunks in parts.items()}
    read = {name: states for name, states in whole.items() if len(states) == len(items)}
    if not read:
        raise UnknownLayers("no hidden layer has one state an item")
    return Layers(items=items, states=read)


def _rows(states: Tensor, batch: AnyBatch, layer: nn.Module) -> dict[str, Tensor]:
    """Returns one state an item, [items, hidden], for each position by what its name ends with."""
    if batch.real.dim() == 1:
        return _flat(states, layer)
    if isinstance(batch, Batch):
        end, first = (batch.labels != IGNORED).int().argmax(dim=1) - 1, {}
    else:
        end, first = batch.real.sum(dim=1) - 1, {", first": states[:, 0]}
    read = torch.arange(states.shape[1], device=end.device) <= end[:, None]
    # A padded position is zeroed by choosing, not multiplying: what stands there need not be finite.
    total = torch.where(read[..., None], states.float(), 0).sum(dim=1)
    return {**first, ", last": states[torch.arange(len(end)), end], ", mean": total / read.sum(dim=1, keepdim=True)}


def _flat(states: Tensor, layer: nn.Module) -> dict[str, Tensor]:
    """Returns a classifier's states flattened, [items, features].

    Of maps that have more than `WIDEST` all channels are kept, and each is averaged over as many cells of equal size as
    fit into `POOLED` features, one at least. Three dimensions that a layer without weights of its own puts out, as the
    block of a vision transformer, are tokens: of these the first, which heads read, and the mean.

    Args:
        states: [items, ...].
        layer: whose output they are.
    """
    if states.dim() < 3 or states[0].numel() <= WIDEST:
        return {"": states.flatten(1)}
    if states.dim() == 3 and not isinstance(getattr(layer, "weight", None), Tensor):
        return {", first": states[:, 0], ", mean": states.float().mean(dim=1)}
    maps = (states.movedim(-1, 1) if _channels_last(states, layer) else states).float()
    if maps.dim() - 2 not in POOLS:
        maps = maps.flatten(2)
    sizes, cells = maps.shape[2:], max(1, POOLED // maps.shape[1])
    side = max(n for n in range(1, cells + 1) if n ** len(sizes) <= cells)
    return {"": POOLS[len(sizes)](maps, [min(side, size) for size in sizes]).flatten(1)}


def _channels_last(states: Tensor, layer: nn.Module) -> bool:
    """Whether a layer's channels are the last dimension: of a linear layer always, of others where no other fits."""
    channels = len(layer.weight) if isinstance(layer.weight, Tensor) and layer.weight.ndim else None
    fits_first, fits_last = states.shape[1] == channels, states.shape[-1] == channels
    return isinstance(layer, nn.Linear) or (fits_last and not fits_first)


def layers_of(
    module: nn.Module, tokenizer: PreTrainedTokenizerBase | None, capability: Capability
) -> Callable[[Part], Layers]:
    """Returns what reads the states of a split, once: asked again, it returns the same."""

    @cache
    def layers(part: Part) -> Layers:
        return read_layers(module, tokenizer, capability, getattr(capability, part))

    return layers
