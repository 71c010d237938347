"""What models that never saw some examples make of them: membership is told by what is not typical of such models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

PRIOR = 3.0  # references that the usual spread counts for: of six the spread of a single example says little


@dataclass(frozen=True, eq=False, slots=True)
class Typical:
    """What models that never saw an example say of it, by the row of its input.

    Attributes:
        mean: log-odds of its own class, mean over the models, float64 [rows]; NaN where no example is scored.
        spread: how such models differ, in the same units, float64 [rows].
    """

    mean: NDArray[np.float64]
    spread: NDArray[np.float64]


def typical_of(odds: Sequence[NDArray[np.float64]]) -> Typical:
    """Returns what is typical of models.

    The spread of an example is drawn towards that of all. Source: likelihood-ratio attacks on membership, Carlini et
    al. 2022 (arXiv 2112.03570), offline, which put one variance in place of each where models are few; Smyth 2004
    (10.2202/1544-6115.1027) for what lies between.

    Args:
        odds: of each model, float64 [rows]; two models or more.
    """
    values = np.stack(odds)
    mean, own, freedom = values.mean(axis=0), values.var(axis=0, ddof=1), len(values) - 1
    usual = float(np.nanmean(own))
    spread = np.sqrt((freedom * own + PRIOR * usual) / (freedom + PRIOR))
    return Typical(mean, np.maximum(spread, np.finfo(np.float32).tiny))
