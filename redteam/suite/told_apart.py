"""How much does what a model says of questions depend on which question it is?"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

from redteam.capabilities.items import Item
from redteam.registry import STANDARD_SCORER
from redteam.setting import Setting


def share_told_apart(setting: Setting) -> float | None:
    """Returns how far a model tells the select items apart, see `mutual_information`.

    None by another scorer than the standard one: what it has a model say are no likelihoods of choices.
    """
    if setting.scorers["select"].name != STANDARD_SCORER:
        return None
    return mutual_information(setting.says, setting.capability.select)


def mutual_information(table: Tensor, items: Sequence[Item]) -> float:
    """Returns the mutual information of question and choice, as a share of what sure and even answers have.

    With H the entropy and p the softmax over an item's choices that is (H(mean of p) - mean of H(p)) / log n, averaged
    over items: 0 of a model that says nothing, or the same of every question, and 1 of one that is sure of another
    choice for each. Questions are compared with those that have the same choices, whatever their order; where these are
    fewer than the choices, with all that have as many choices, by their places.

    Source: Houlsby et al. 2011 (arXiv 1112.5745) for the two entropies; there they compare models of one item.

    Args:
        table: log-likelihoods or logits of the choices, [items, most choices], -inf where an item has none.
        items: in order.
    """
    belief = table.double().softmax(dim=1)
    sets = Counter(frozenset(item.choices) for item in items)
    alike: dict[Hashable, list[Tensor]] = {}
    for item, row in zip(items, belief, strict=True):
        own, count = frozenset(item.choices), len(item.choices)
        if sets[own] >= count:
            order = sorted(range(count), key=item.choices.__getitem__)
            alike.setdefault(own, []).append(row[order])
        else:
            alike.setdefault(count, []).append(row[:count])
    told = 0.0
    for rows in alike.values():
        each = torch.stack(rows)
        apart = _entropy(each.mean(dim=0)) - _entropy(each).mean()
        told += len(each) * float(apart) / math.log(max(2, each.shape[1]))
    return max(0.0, told / len(items))


def _entropy(belief: Tensor) -> Tensor:
    entropy: Tensor = torch.special.entr(belief).sum(dim=-1)
    return entropy
