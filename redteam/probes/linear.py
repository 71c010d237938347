"""Linear probe over all layers, with a control task."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from redteam.capabilities.items import Item
from redteam.probes.contract import Layers, ProbeReading, View

STRENGTHS = (0.01, 0.1, 1.0)  # inverse regularisation; the default of 1 alone overfits small splits


class LinearProbe:
    """Reads the answer off a hidden state with multinomial logistic regression.

    Layer and regularisation are chosen on the select split, so that the certify score is free of that choice. The
    control task is the same probe trained on shuffled answers: what it reads, any probe can learn by itself.
    """

    name = "linear"
    version = 1
    goal = "is the answer still linearly readable in some layer, on facts the probe never saw?"
    paper = "Alain & Bengio 2016 (probes); Hewitt & Liang 2019, Designing and Interpreting Probes (control task)"

    kinds = "language, classifier"
    needs = ""
    decides = True

    def read(self, view: View) -> ProbeReading:
        """Fits one probe per layer and strength."""
        return self.read_layers(view.layers("attack"), view.layers("select"), view.layers("certify"), view.seed)

    def read_layers(self, train: Layers, select: Layers, certify: Layers, seed: int) -> ProbeReading:
        """Does the same on states that were read already."""
        answers = np.array([item.completion for item in train.items])
        shuffled = np.random.default_rng(seed).permutation(answers)
        by_layer: dict[str, float] = {}
        best = (-1.0, "", 0.0)
        for layer, states in train.states.items():
            for strength in STRENGTHS:
                probe = _fit(states, answers, strength)
                accuracy = float(_correct(probe, select.states[layer], select.items).mean())
                by_layer[layer] = max(accuracy, by_layer.get(layer, 0.0))
                if accuracy > best[0]:  # of equals the earliest layer and the strongest regularisation
                    best = (accuracy, layer, strength)
        _, layer, strength = best
        real = _fit(train.states[layer], answers, strength)
        control = _fit(train.states[layer], shuffled, strength)
        return ProbeReading(
            layer=layer,
            correct=tuple(_correct(real, certify.states[layer], certify.items).tolist()),
            control=tuple(_correct(control, certify.states[layer], certify.items).tolist()),
            by_layer=by_layer,
        )


def _fit(states: NDArray[np.float32], answers: NDArray[np.str_], strength: float) -> Pipeline | None:
    """Returns the fitted probe; None where all answers are one, so that there is nothing to tell apart."""
    if len(set(answers)) < 2:
        return None
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=200))
    with warnings.catch_warnings():
        # An unfinished fit is a weaker probe, and the choice on the select split passes it over. With answers that
        # are nearly all different there is little to learn, which the same probe on the original shows.
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.filterwarnings("ignore", message="The number of unique classes is greater than 50%")
        return probe.fit(states, answers)


def _correct(probe: Pipeline | None, states: NDArray[np.float32], items: tuple[Item, ...]) -> NDArray[np.float64]:
    """Returns 1 where the right choice has the highest probability among the item's own choices.

    A choice that never was an answer in training cannot be read; an item with no readable choice scores chance, and
    so does every item of a probe that could not be fitted.
    """
    if probe is None:
        return np.array([1 / len(item.choices) for item in items])
    column = {answer: index for index, answer in enumerate(probe.classes_)}
    table = probe.decision_function(states).reshape(len(items), -1)
    if table.shape[1] == 1:  # two classes: one signed column
        table = np.hstack([-table, table])
    scores = np.empty(len(items))
    for row, item in enumerate(items):
        readable = [c for c in item.choices if c in column]
        values = np.array([table[row, column[c]] for c in readable])
        if not readable:
            scores[row] = 1 / len(item.choices)
        else:
            scores[row] = float(readable[int(values.argmax())] == item.completion)
    return scores
