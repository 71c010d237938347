"""Splits by fact: a group of items lands in one part whole."""

from __future__ import annotations

import random
from collections.abc import Sequence

from redteam.capabilities.items import Item


def split_by_group(items: Sequence[Item], shares: Sequence[float], seed: int) -> list[tuple[Item, ...]]:
    """Deals the groups, shuffled, into parts of the given relative sizes (counted in groups).

    Raises:
        ValueError: there are fewer groups than parts.
    """
    groups = sorted({item.group for item in items})
    if len(groups) < len(shares):
        raise ValueError(f"{len(groups)} groups cannot fill {len(shares)} splits")
    random.Random(seed).shuffle(groups)
    total, cuts, done = sum(shares), [0], 0.0
    for part, share in enumerate(shares):
        done += share
        latest = len(groups) - (len(shares) - part - 1)
        cuts.append(min(max(round(len(groups) * done / total), cuts[-1] + 1), latest))
    where = {g: part for part in range(len(shares)) for g in groups[cuts[part] : cuts[part + 1]]}
    return [tuple(item for item in items if where[item.group] == part) for part in range(len(shares))]
