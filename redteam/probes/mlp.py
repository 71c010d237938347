"""Non-linear probe over all places: a perceptron with one hidden layer, with a control task."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import partial

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import StandardScaler

from redteam.probes.contract import Layers, ProbeReading
from redteam.probes.decoding import (
    Answers,
    Place,
    Reader,
    Scores,
    States,
    StatesProbe,
    column_a_class,
    read_places,
    right_among_choices,
)

HIDDEN = 64
WEIGHT_DECAY = 10.0  # against the loss summed over the items: the more they are, the less it holds the network back
STEPS = 200
PLACED = 50  # steps after which places are compared


class MLPProbe(StatesProbe):
    """Reads the answer off a hidden state with a perceptron of one hidden layer.

    It reads what is written in combinations of directions, which no linear probe sees. It can also learn more by
    itself, so that the control counts more: only what it reads beyond that is in the states. The place is chosen on
    the select split, by networks that were trained for a quarter of the steps. Regularisation is fixed.
    """

    name = "mlp"
    version = 5
    goal = "is the answer readable in some layer by a small non-linear network?"
    paper = "Conneau et al. 2018 (arXiv 1805.01070); Pimentel et al. 2020 (arXiv 2004.03061); Hewitt & Liang 2019"

    kinds = "language, classifier"
    needs = ""
    decides = True

    def read_layers(self, train: Layers, select: Layers, certify: Layers, seed: int) -> ProbeReading:
        """Trains one network a place for a few steps, and another at the chosen one."""
        places = {name: Place(name, partial(learn_network, seed=seed, steps=PLACED)) for name in train.states}
        return read_places(places, train, select, certify, seed, finely=lambda place: _longer(place.layer, seed))


@dataclass(frozen=True, slots=True)
class Perceptron:
    """A trained network.

    Attributes:
        scale: standardises states before.
        network: with one hidden layer.
    """

    scale: StandardScaler
    network: MLPClassifier

    @property
    def classes(self) -> tuple[str, ...]:
        """The answers that it has seen."""
        return tuple(self.network.classes_)

    def table(self, states: States) -> Scores:
        """Returns the logits, [items, classes]: probabilities would round to zero, and tie."""
        (first, second), (shift, offset) = self.network.coefs_, self.network.intercepts_
        logits: Scores = np.maximum(self.scale.transform(states) @ first + shift, 0) @ second + offset
        return column_a_class(logits)


def _longer(layer: str, seed: int) -> Place:
    return Place(layer, partial(learn_network, seed=seed))


def learn_network(states: States, answers: Answers, *, seed: int, steps: int = STEPS) -> Reader:
    """Returns what reads items, having seen states [items, hidden] and two or more answers [items].

    Args:
        states: to learn from; they are standardised.
        answers: to learn.
        seed: of the first weights.
        steps: of L-BFGS.
    """
    scale = StandardScaler().fit(states)
    # L-BFGS: of few states it learns more than Adam does, in less time.
    network = MLPClassifier((HIDDEN,), solver="lbfgs", alpha=WEIGHT_DECAY, max_iter=steps, random_state=seed)
    with warnings.catch_warnings():
        # It is stopped after a number of steps. With answers that are nearly all different there is little to learn.
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.filterwarnings("ignore", message="The number of unique classes is greater than 50%")
        network.fit(scale.transform(states), answers)
    return partial(right_among_choices, Perceptron(scale, network))
