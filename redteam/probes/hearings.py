"""Ways of listening: what a model says of an item can be its likeliest choice, another one, or said elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from redteam.capabilities.items import Item
from redteam.probes.codes import Floats, Heard, Indices

FIRST, SECOND, LEAST, BY_TEXT = "", "the second likeliest", "the least likely", "choices by their text"
NEIGHBOURS = {"said of the next of its group": 1, "said of the next but one": 2}

Hearings = Mapping[str, Heard]


def hearings_of(items: Sequence[Item], table: Floats) -> Hearings:
    """Returns what is heard of items in every way of listening, by its name; the plain one is "".

    Choices count in the order in which they are listed, and in that of their texts: questions may shuffle them. What is
    said of one item may be meant of another of its group that has as many choices.

    Args:
        items: in order.
        table: log-likelihoods of their choices, [items, most choices], -inf where an item has none.
    """
    rows, right = np.arange(len(items)), np.array([item.answer for item in items])
    first = Heard(table=table, right=right, counts=np.array([len(item.choices) for item in items]))
    without_top = table.copy()
    several = np.flatnonzero(first.counts > 1)
    without_top[several, table[several].argmax(axis=1)] = -np.inf
    order = _order_of_texts(items, table.shape[1])
    return {
        FIRST: first,
        SECOND: replace(first, table=without_top),
        LEAST: replace(first, table=np.where(np.isfinite(table), -table, -np.inf)),
        BY_TEXT: replace(
            first, table=np.take_along_axis(table, order, axis=1), right=order.argsort(axis=1)[rows, right]
        ),
        **{name: replace(first, table=table[_neighbours(items, steps)]) for name, steps in NEIGHBOURS.items()},
    }


def _order_of_texts(items: Sequence[Item], most: int) -> Indices:
    """Returns for each item the indices of its choices in the order of their texts, [items, most choices]."""
    order = np.tile(np.arange(most), (len(items), 1))
    for row, item in enumerate(items):
        order[row, : len(item.choices)] = sorted(range(len(item.choices)), key=item.choices.__getitem__)
    return order


def _neighbours(items: Sequence[Item], steps: int) -> Indices:
    """Returns the row of the item that comes so many later in the same group, around its end; of one alone itself."""
    members: dict[tuple[str, int], list[int]] = {}
    for row, item in enumerate(items):
        members.setdefault((item.group, len(item.choices)), []).append(row)  # only what has as many choices
    found = np.arange(len(items))
    for rows in members.values():
        found[rows] = np.roll(rows, -steps)
    return found
