"""Difference of means over all places, with a control task and an erasure control."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from sklearn.covariance import LedoitWolf

from redteam.probes.contract import Layers, ProbeReading
from redteam.probes.decoding import (
    Answers,
    Place,
    Reader,
    Scores,
    States,
    StatesProbe,
    read_places,
    right_among_choices,
)
from redteam.probes.erasure import read_erased


class MeansProbe(StatesProbe):
    """Reads the answer off a hidden state by the direction from the mean of all other answers to its own mean.

    Nothing is optimised, so that there is little to overfit: the directions tend to be those that the model itself
    uses. Each place is read plainly and whitened, and the better of all is chosen on the select split.
    """

    name = "means"
    version = 4
    goal = "do the mean states of the answers still tell them apart, in some layer?"
    paper = "Marks & Tegmark 2023, The Geometry of Truth (mass-mean probing; arXiv 2310.06824)"

    kinds = "language, classifier"
    needs = ""
    decides = True

    def read_layers(self, train: Layers, select: Layers, certify: Layers, seed: int) -> ProbeReading:
        """Takes the means at every place."""
        places = {
            f"{layer}, {variant}": Place(layer, partial(_learn, whiten=variant == "whitened"))
            for layer in train.states
            for variant in ("plain", "whitened")
        }
        reading = read_places(places, train, select, certify, seed)
        return replace(reading, erased=read_erased(places[reading.layer], train, certify))


@dataclass(frozen=True, slots=True)
class Directions:
    """One direction for each answer, and where it is cut.

    Attributes:
        classes: the answers, sorted.
        weights: [classes, hidden].
        cuts: what a state scores halfway between the two means, [classes].
    """

    classes: tuple[str, ...]
    weights: Scores
    cuts: Scores

    def table(self, states: States) -> Scores:
        """Returns how far a state is to the answer's side of the cut, [items, classes]."""
        return states @ self.weights.T - self.cuts


def fit_means(states: States, answers: Answers, *, whiten: bool) -> Directions:
    """Takes the means of states.

    With theta_c = mean_c - mean_rest, a state h scores (h - (mean_c + mean_rest) / 2) . theta_c, or with the inverse
    covariance within answers between the two, shrunk as states are few: towards the variance of each dimension, as some
    are far larger than others. Plain scores are divided by the mean variance, the same for all, so that they too have
    no unit.

    Args:
        states: [items, hidden].
        answers: two or more, [items].
        whiten: whether the covariance comes between.

    Source: Marks & Tegmark 2023, section 5.1 (mass-mean probing, for two classes); Ledoit & Wolf 2004 (shrinkage).
    """
    states = states.astype(np.float64)
    classes, which, counts = np.unique(answers, return_inverse=True, return_counts=True)
    total = np.stack([states[which == index].sum(axis=0) for index in range(len(classes))])
    mean = total / counts[:, None]
    rest = (total.sum(axis=0) - total) / (len(states) - counts)[:, None]
    within = states - mean[which]
    if whiten and within.any():
        spread = np.where(within.any(axis=0), within.std(axis=0), 1.0)
        inverse = LedoitWolf(assume_centered=True).fit(within / spread).precision_ / np.outer(spread, spread)
    else:  # where every answer occurs once nothing varies
        inverse = np.eye(states.shape[1]) / (within.var(axis=0).mean() or 1.0)
    weights = (mean - rest) @ inverse
    return Directions(tuple(classes), weights, ((mean + rest) / 2 * weights).sum(axis=1))


def _learn(states: States, answers: Answers, *, whiten: bool) -> Reader:
    return partial(right_among_choices, fit_means(states, answers, whiten=whiten))
