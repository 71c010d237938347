"""Scores by rank: how surely does an example lie above a line that lets a small share of others pass?"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

import torch
from torch import Tensor

from redteam.capabilities.scorers.contract import Scores
from redteam.errors import InputError

FOLDS = 10  # of the negatives: how much the line depends on them shows where one fold is left out
LEAST = 3  # negatives above a line: the place of a line with fewer above it is luck


def places(own: Tensor, against: Tensor) -> Tensor:
    """Returns how many negatives of each fold are below each example and beside it, float64 [examples, 2, FOLDS].

    Args:
        own: a value for each example, float64 [examples].
        against: the same of the negatives, [negatives].
    """
    found = []
    for fold in range(FOLDS):
        ordered = against[fold::FOLDS].sort().values
        below = torch.searchsorted(ordered, own)
        found.append(torch.stack([below, torch.searchsorted(ordered, own, right=True) - below], dim=1))
    return torch.stack(found, dim=2).double()


def fold_sizes(counts: Sequence[int], held: Tensor) -> Tensor:
    """Returns how many negatives of each fold an example is held against, float64 [examples, FOLDS].

    Args:
        counts: negatives of each set.
        held: which set each example is held against, int64 [examples].
    """
    sizes = [[len(range(fold, count, FOLDS)) for fold in range(FOLDS)] for count in counts]
    return torch.tensor(sizes, dtype=torch.float64)[held]


def above_line(found: Tensor, sizes: Tensor, rate: float) -> Scores:
    """Returns how surely each example lies above the line that a share of `rate` lies above, float64 [examples].

    Among n negatives and itself an example has a rank from 1 to n + 1; it is above the line if the rank is above
    q = (1 - rate)(n + 1), and as far as it is where q is no whole number. With m negatives beside it, it has each of
    m + 1 ranks as likely; sums over ranks are differences. So an example that is drawn like the negatives scores the
    rate, exactly, whatever the model, and so does any example where a model says one thing of all. Source: conformal
    p-values (Vovk et al. 2005, "Algorithmic Learning in a Random World"), with ties broken at random, in expectation.

    Args:
        found: as of `places`.
        sizes: as of `fold_sizes`.
        rate: share of the negatives above the line.
    """
    return _above(found.sum(dim=2), sizes.sum(dim=1), rate)


def above_lines(found: Tensor, sizes: Tensor, rate: float) -> list[Scores]:
    """Returns the scores had one fold of the negatives not been there to draw the line by, for each fold.

    The line is drawn by few negatives; how far it moves shows in these (a jackknife over groups).
    """
    whole, count = found.sum(dim=2), sizes.sum(dim=1)
    return [_above(whole - found[:, :, fold], count - sizes[:, fold], rate) for fold in range(FOLDS)]


def _above(found: Tensor, sizes: Tensor, rate: float) -> Scores:
    below, beside = found[:, 0], found[:, 1]
    line = (1 - rate) * (sizes + 1)
    above = (below + beside + 1 - line).clamp(min=0) - (below - line).clamp(min=0)
    return (above / (beside + 1)).clamp(0, 1).numpy()


def needed_for(rate: float) -> int:
    """Returns how many negatives it takes to draw a line that `rate` of them lie above."""
    return ceil(LEAST / rate - 1e-9)


def refuse_few(negatives: int, rate: float, lines: int, what: str, name: str) -> None:
    """Refuses a rate that so many negatives cannot tell.

    Args:
        negatives: that are held out.
        rate: of false positives, in all.
        lines: how many lines share it.
        what: the negatives, in words.
        name: of the capability, or of its file.

    Raises:
        InputError: fewer than `LEAST` of them would be above a line.
    """
    if negatives >= needed_for(rate / lines):
        return
    allowed = lines * LEAST / max(negatives, 1)
    told = f"they allow a rate of {allowed:.2g}" if allowed <= 0.5 else "no rate can be told"
    raise InputError(
        f"{name}: {negatives} {what} are held out to draw the line by, a false-positive rate"
        f" of {rate:g} needs {needed_for(rate / lines)}; {told}",
        "Give more of them, or set `false_positives` in the capability file",
    )
