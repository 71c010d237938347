"""Codes: ways in which what a model says of a question may stand for something else, each with a key."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
Substitution = Callable[[int], Indices]

# Of one item, keys times choices. Sixty-four choices leave room for every shift, sixteen for every affine key.
MOST_CELLS = 4096


@dataclass(frozen=True, kw_only=True, slots=True)
class Heard:
    """What a model says of the choices of some items.

    Attributes:
        table: log-likelihoods, [items, most choices]; -inf where an item has no such choice.
        right: index of the right choice, [items].
        counts: choices of each item, [items].
    """

    table: Floats
    right: Indices
    counts: Indices

    def take(self, rows: Sequence[int]) -> Heard:
        """Returns some of the items."""
        return Heard(table=self.table[rows], right=self.right[rows], counts=self.counts[rows])

    @property
    def belief(self) -> Floats:
        """The softmax over the choices of an item, [items, most choices]."""
        odds = np.exp(self.table - self.table.max(axis=1, keepdims=True))
        return np.asarray(odds / odds.sum(axis=1, keepdims=True))

    @property
    def standardised(self) -> Floats:
        """Log-likelihoods less their mean over an item's choices, by their deviation; 0 where there is no choice."""
        real = np.isfinite(self.table)
        count = real.sum(axis=1, keepdims=True)
        apart = np.where(real, self.table - np.where(real, self.table, 0).sum(axis=1, keepdims=True) / count, 0.0)
        deviation = np.sqrt((apart**2).sum(axis=1, keepdims=True) / count)
        return np.asarray(apart / np.where(deviation > 0, deviation, 1.0))

    @property
    def ranks(self) -> Indices:
        """How many choices are likelier than each, [items, most choices]; of equals the first is the likelier."""
        return np.asarray((-self.table).argsort(axis=1, kind="stable").argsort(axis=1))


Code = Callable[[Heard], Floats]  # -> the support for each choice, if this were the key: [items, keys, most choices]


def plain(heard: Heard) -> Floats:
    """What is said is meant: there is one key."""
    return heard.belief[:, None, :]


def ranked(heard: Heard) -> Floats:
    """What is meant has a fixed rank among what is said, the key: the second likeliest, say. Of many the first few."""
    most = heard.table.shape[1]
    keys = np.arange(min(most, MOST_CELLS // most))[:, None]
    return np.asarray((heard.ranks[:, None, :] == keys) & np.isfinite(heard.table)[:, None, :], dtype=np.float64)


def difference(choices: int) -> Indices:
    """Says meant - key mod n: the shift of Caesar and, with a key for every word, of Vigenere."""
    key, meant = np.ogrid[:choices, :choices]
    return np.asarray((meant - key) % choices)


def reflection(choices: int) -> Indices:
    """Says key - meant mod n: Beaufort's cipher."""
    key, meant = np.ogrid[:choices, :choices]
    return np.asarray((key - meant) % choices)


def exclusive_or(choices: int) -> Indices:
    """Says meant xor key; -1 where that is no choice."""
    key, meant = np.ogrid[: 1 << (choices - 1).bit_length(), :choices]
    return np.where((meant ^ key) < choices, meant ^ key, -1)


def affine(choices: int) -> Indices:
    """Says factor meant + shift mod n, for every shift and every factor that has no divisor in common with n."""
    factors = [factor for factor in range(1, choices) if math.gcd(factor, choices) == 1]
    factor, shift, meant = np.array(factors or [1])[:, None, None], np.arange(choices)[:, None], np.arange(choices)
    return np.asarray(((factor * meant + shift) % choices).reshape(-1, choices))


SUBSTITUTIONS: Mapping[str, Substitution] = {
    "difference": difference,
    "reflection": reflection,
    "xor": exclusive_or,
    "affine": affine,
}


def substituted(substitution: Substitution, heard: Heard) -> Floats:
    """Returns the support for each choice: the belief in what would be said of it under each key.

    Args:
        substitution: takes a number of choices and returns what is said of each that is meant, int64 [keys, choices],
            -1 where nothing is.
        heard: what was said.
    """
    most, belief = heard.table.shape[1], heard.belief
    support = np.zeros((len(belief), _keys(substitution, most), most))
    for count in np.unique(heard.counts):
        said, rows = substitution(int(count)), np.flatnonzero(heard.counts == count)
        support[rows, : len(said), :count] = np.where(said >= 0, belief[rows][:, said], 0.0)
    return support


def usable(substitution: Substitution, choices: int) -> bool:
    """Returns whether the keys for so many choices and fewer are few enough to be tried."""
    return choices**2 <= MOST_CELLS and _keys(substitution, choices) * choices <= MOST_CELLS


def _keys(substitution: Substitution, most: int) -> int:
    """Returns how many keys there are for any number of choices up to the most."""
    return max(len(substitution(count)) for count in range(1, most + 1))
