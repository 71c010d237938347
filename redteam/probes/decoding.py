"""What probes of hidden states share: what they learn from, what they read of an item, and the choice of a place."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from redteam.capabilities.items import Item
from redteam.probes.contract import Layers, ProbeContext, ProbeReading

TIE = 1e-6  # scores are of the order of 1; what differs by less is rounding, as after erasure

States = NDArray[np.floating[Any]]
Answers = NDArray[np.str_]
Scores = NDArray[np.float64]
Reader = Callable[[States, tuple[Item, ...]], Scores]


class Decoder(Protocol):
    """Tells answers apart."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The answers that it has seen, in the order of the table's columns."""

    def table(self, states: States) -> Scores:
        """Returns a score of every answer for each state, the higher the likelier, [items, classes]."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a probe reads, and how it learns to.

    Attributes:
        layer: name of the states.
        learn: returns what reads items, having seen states [items, hidden] and two or more answers [items].
    """

    layer: str
    learn: Callable[[States, Answers], Reader]

    def reader(self, states: States, answers: Answers) -> Reader:
        """Returns what reads items: what was learnt, or nothing where all answers are one."""
        return self.learn(states, answers) if len(set(answers)) > 1 else blind


def learning(view: ProbeContext) -> Layers:
    """Returns the states that a probe of a model learns from: those of the attack split.

    Of a forgotten class all answers are one and the same, and what knows nothing else can tell nothing apart; of two,
    it would be right half of the time without knowing anything. There the items of what stays are added, whose
    answers are the other classes; the adversary has them too. Where questions have different answers they are left out:
    questions about what stays may have answers of another kind.
    """
    attack = view.layers("attack")
    asked = view.kind == "language" and len(set(answers_of(attack.items))) > 1
    if asked or not view.capability.retain:
        return attack
    retain = view.layers("retain")
    items = attack.items + retain.items
    rows = no_more_than_usual(answers_of(items), len(attack.items), view.seed)
    states = {layer: np.concatenate([attack.states[layer], more])[rows] for layer, more in retain.states.items()}
    return Layers(items=tuple(items[row] for row in rows), states=states)


def no_more_than_usual(answers: Answers, removed: int, seed: int) -> NDArray[np.int64]:
    """Returns which rows to learn from, so that no removed answer is more frequent than what stays usually is.

    Else a probe that knows nothing would name the most frequent answer, and be right of all that was removed: 120
    images with a trigger and 170 of the class that it asks for, among some 110 of any other.

    Args:
        answers: [items].
        removed: so many of them, the first, are of what was removed.
        seed: draws what is left out; of an answer that is the last what has it and stays.
    """
    own, counts = set(answers[:removed].tolist()), Counter(answers.tolist())
    usual = int(np.median([count for answer, count in counts.items() if answer not in own] or [len(answers)]))
    order = np.random.default_rng(seed).permutation(len(answers))
    order = np.concatenate([order[order < removed], order[order >= removed]])
    dropped = [order[answers[order] == answer][usual:] for answer in sorted(own)]
    return np.setdiff1d(np.arange(len(answers)), np.concatenate(dropped))


class StatesProbe(ABC):
    """A probe of hidden states, for a probe to inherit from: it says how it reads splits whose states are known."""

    def read(self, view: ProbeContext) -> ProbeReading:
        """Learns on what `learning` gives, chooses the place on select, and reports on certify."""
        return self.read_layers(learning(view), view.layers("select"), view.layers("certify"), view.seed)

    @abstractmethod
    def read_layers(self, train: Layers, select: Layers, certify: Layers, seed: int) -> ProbeReading:
        """Does the same on states that were read already."""


def read_places(
    places: Mapping[str, Place],
    learning: Layers,
    select: Layers,
    certify: Layers,
    seed: int,
    *,
    merit: Callable[[Scores], float] = lambda scores: float(scores.mean()),
    finely: Callable[[Place], Place] = lambda place: place,
) -> ProbeReading:
    """Learns at every place, chooses the one of most merit on select, learns there finely, and reports on certify.

    Args:
        places: by the names that are shown.
        learning: states that it learns from.
        select: states that it chooses on.
        certify: states that it reports on.
        seed: shuffles the answers of the control, which learns at the chosen place.
        merit: of the scores of the select items; of equals the earliest place is chosen.
        finely: says how the chosen place is learnt, where there is a better way that takes longer than the choice.
    """
    answers = answers_of(learning.items)
    readers = {name: place.reader(learning.states[place.layer], answers) for name, place in places.items()}
    merits = {name: merit(read(select.states[places[name].layer], select.items)) for name, read in readers.items()}
    best = max(merits, key=lambda name: merits[name])
    layer, place = places[best].layer, finely(places[best])
    read = readers[best] if place is places[best] else place.reader(learning.states[layer], answers)
    control = place.reader(learning.states[layer], shuffled(learning.items, seed))
    return ProbeReading(
        layer=best,
        correct=tuple(read(certify.states[layer], certify.items).tolist()),
        control=tuple(control(certify.states[layer], certify.items).tolist()),
        by_layer=merits,
    )


def answers_of(items: tuple[Item, ...]) -> Answers:
    """Returns the right answers, [items]."""
    return np.array([item.completion for item in items])


def shuffled(items: tuple[Item, ...], seed: int) -> Answers:
    """Returns answers that say nothing of an item, [items], each drawn among the choices of the item that gets it.

    A choice is the likelier, the more often it is right in other items; where none of them ever is, all are equally
    likely. A permutation would keep the answers of items that share no choices with another: there it would leave the
    control what the probe itself learns.
    """
    rng, completions = np.random.default_rng(seed), [item.completion for item in items]
    right = Counter(completions)
    drawn = []
    for item, own in zip(items, completions, strict=True):
        weights = np.array([right[choice] - (choice == own) for choice in item.choices], dtype=float)
        if not weights.any():
            weights[:] = 1
        drawn.append(item.choices[int(rng.choice(len(weights), p=weights / weights.sum()))])
    return np.array(drawn)


def blind(states: States, items: tuple[Item, ...]) -> Scores:
    """Returns what guessing scores, [items]."""
    return np.array([1 / len(item.choices) for item in items])


def column_a_class(logits: Scores) -> Scores:
    """Returns logits as [items, classes]: scikit-learn gives two classes one column, the difference of theirs."""
    return np.hstack([-logits / 2, logits / 2]) if logits.shape[1] == 1 else logits


def scores_of_choices(decoder: Decoder, states: States, items: tuple[Item, ...]) -> list[Scores]:
    """Returns for each item the scores of its own choices, [choices]; minus infinity of one that was never seen."""
    column = {answer: index for index, answer in enumerate(decoder.classes)}
    table = np.hstack([decoder.table(states), np.full((len(items), 1), -np.inf)])
    return [row[[column.get(choice, -1) for choice in item.choices]] for row, item in zip(table, items, strict=True)]


def right_among_choices(decoder: Decoder, states: States, items: tuple[Item, ...]) -> Scores:
    """Returns 1 where the right choice scores highest among the item's own, [items]; a tie is shared.

    A choice that never was an answer in learning cannot be read; an item with no readable choice scores chance.
    """
    rights = np.empty(len(items))
    for row, (item, scores) in enumerate(zip(items, scores_of_choices(decoder, states, items), strict=True)):
        top = scores >= scores.max() - TIE
        rights[row] = top[item.answer] / top.sum()
    return rights
