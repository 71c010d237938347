"""Erasure control: what a linear probe still reads where the answer was taken out of the states."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import torch
from sklearn.preprocessing import StandardScaler

from redteam.probes.contract import Layers
from redteam.probes.decoding import Answers, Place, States, answers_of

SMALL = 1e-6  # of standardised states: what varies less was erased, and is rounding


def read_erased(place: Place, learning: Layers, certify: Layers) -> tuple[float, ...]:
    """Returns what the probe of a place reads of each certify item, trained and tested on erased states.

    No linear probe can learn from such states, so that it must be at chance on certify. Where it is not, it reads
    answers off something else: answers that are not equally frequent, or a fault.
    """
    states, answers = learning.states[place.layer], answers_of(learning.items)
    erase = eraser(states, answers)
    read = place.reader(erase(states), answers)
    return tuple(read(erase(certify.states[place.layer]), certify.items).tolist())


def eraser(states: States, answers: Answers) -> Callable[[States], States]:
    """Returns what erases the answers from states, standardised, float64 [items, hidden].

    It is the least change of states after which their covariance with the one-hot answers is zero: then no linear
    classifier, of whatever loss, does better on the states it was fitted to than a constant.

    Args:
        states: [items, hidden].
        answers: [items].

    Source: Belrose et al. 2023, LEACE: Perfect linear concept erasure in closed form (arXiv 2306.03819), theorem 4.3.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # it compiles a function with torch.jit.script
        from concept_erasure import LeaceEraser  # type: ignore[import-untyped]  # here: only these controls need it

    scale = StandardScaler().fit(states.astype(np.float64))
    one_hot = torch.from_numpy((answers[:, None] == np.unique(answers)).astype(np.float64))
    standard = torch.from_numpy(scale.transform(states.astype(np.float64)))
    # The package's own settings can leave traces of an answer: a rare one has small singular values, and the bound on
    # the variance, meant for erasing again and again, mixes in a projection that erases less.
    leace = LeaceEraser.fit(standard, one_hot, constrain_cov_trace=False, svd_tol=1e-6)
    kept = leace(standard).numpy().std(axis=0) > SMALL  # else a probe would scale the rounding up

    def erase(others: States) -> States:
        erased: States = leace(torch.from_numpy(scale.transform(others.astype(np.float64)))).numpy()
        return np.where(kept, erased, 0.0)

    return erase
