"""Splits by fact: a group of items lands in one part whole."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from redteam.capabilities.items import Item
from redteam.errors import InputError

MANY, LEAST = 100, 10  # groups: of so many that were removed, the adversary must be given at least so many


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


def refuse_starved(attack: Sequence[Item], forget: Sequence[Item], path: Path) -> None:
    """Refuses an attack split that leaves attacks which train next to nothing, where there are many facts to give.

    Of few facts any share is taken: what there is of them cannot be more.

    Raises:
        InputError: so few of so many are left to train on; `path` says where the shares stand.
    """
    given, all_of_them = (len({item.group for item in items}) for items in (attack, forget))
    if all_of_them >= MANY and given < LEAST:
        raise InputError(
            f"{path}: {given} of {all_of_them} forget facts are in the attack split, which starves attacks that train",
            f"Raise `attack` under [splits], to {LEAST} facts at least",
        )
