"""Linear probe over all places, with a control task and an erasure control."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from functools import partial

from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from redteam.capabilities.items import Item
from redteam.probes.contract import Layers, ProbeReading
from redteam.probes.decoding import (
    Answers,
    Place,
    Reader,
    Scores,
    States,
    StatesProbe,
    answers_of,
    column_a_class,
    read_places,
    right_among_choices,
)
from redteam.probes.erasure import read_erased

STRENGTHS = (0.001, 0.01, 0.1, 1.0)  # inverse regularisation; the default of 1 alone overfits small splits
PLACED = 0.1  # with which places are compared
FOLDS = 5


class LinearProbe(StatesProbe):
    """Reads the answer off a hidden state with multinomial logistic regression.

    The place is chosen on the select split, with one strength of regularisation for all. At that place the strength is
    chosen by cross-validation within the learning split, whose folds divide no group, so that the certify score is free
    of both choices. The control task is the same probe trained
    on shuffled answers: what it reads, any probe can learn by itself. The erasure control is the same probe trained on
    states from which the answer was erased: it must be at chance, else the probe reads something else.
    """

    name = "linear"
    version = 6
    goal = "is the answer still linearly readable in some layer, on facts the probe never saw?"
    paper = "Alain & Bengio 2016 (probes); Hewitt & Liang 2019, Designing and Interpreting Probes (control task)"

    kinds = "language, classifier"
    needs = ""
    decides = True

    def read_layers(self, train: Layers, select: Layers, certify: Layers, seed: int) -> ProbeReading:
        """Fits one probe a place, and at the chosen one another for each fold and strength."""
        chosen: list[Place] = []

        def finely(place: Place) -> Place:
            chosen.append(_tuned(place.layer, train.states[place.layer], train.items))
            return chosen[0]

        places = {name: Place(name, partial(_learn, strength=PLACED)) for name in train.states}
        reading = read_places(places, train, select, certify, seed, finely=finely)
        return replace(reading, erased=read_erased(chosen[0], train, certify))


@dataclass(frozen=True, slots=True)
class Logistic:
    """A fitted logistic regression.

    Attributes:
        fitted: standardises states before.
    """

    fitted: Pipeline

    @property
    def classes(self) -> tuple[str, ...]:
        """The answers that it has seen."""
        return tuple(self.fitted.classes_)

    def table(self, states: States) -> Scores:
        """Returns the logits, [items, classes]."""
        logits: Scores = self.fitted.decision_function(states).reshape(len(states), -1)
        return column_a_class(logits)


def fit_logistic(states: States, answers: Answers, strength: float) -> Logistic:
    """Fits to states [items, hidden] and two or more answers [items]."""
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=200))
    with warnings.catch_warnings():
        # An unfinished fit is a weaker probe, and the choice of strength passes it over. With answers that are nearly
        # all different there is little to learn, which the same probe on the original shows.
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.filterwarnings("ignore", message="The number of unique classes is greater than 50%")
        return Logistic(probe.fit(states, answers))


def _learn(states: States, answers: Answers, *, strength: float) -> Reader:
    return partial(right_among_choices, fit_logistic(states, answers, strength))


def _tuned(name: str, states: States, items: tuple[Item, ...]) -> Place:
    """Returns a place with the strength that reads most of the learning items it was not trained on."""
    groups = [item.group for item in items]
    folds = min(FOLDS, len(set(groups)))
    if folds < 2:
        return Place(name, partial(_learn, strength=STRENGTHS[0]))
    answers, rights = answers_of(items), dict.fromkeys(STRENGTHS, 0.0)
    for train, held_out in GroupKFold(folds).split(states, groups=groups):
        unseen = tuple(items[row] for row in held_out)
        for strength in STRENGTHS:
            read = Place(name, partial(_learn, strength=strength)).reader(states[train], answers[train])
            rights[strength] += float(read(states[held_out], unseen).sum())
    best = max(STRENGTHS, key=lambda strength: rights[strength])  # of equals the strongest regularisation
    return Place(name, partial(_learn, strength=best))
