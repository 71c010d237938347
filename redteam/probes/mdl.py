"""Minimum description length probe: how many bits it takes to send the answers to somebody who has the states."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

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
    read_places,
    scores_of_choices,
    shuffled,
)
from redteam.probes.linear import Logistic, fit_logistic

STRENGTH = 0.1  # fixed: every choice would have to be sent too
BLOCKS = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)  # share of the items after each block
PRIOR = 1.0  # items' worth of every choice before the first is seen (Laplace's rule): no code is infinite


class DescriptionLength(StatesProbe):
    """Codes the answers, given the states, with a linear probe that learns as they come.

    What is easy to read is learnt from few items, which accuracy does not show and the length of the code does. An item
    scores the probability of its right answer under the probe of the whole learning split, so that chance is blind
    guessing. The place is the one with the shortest mean code of select.
    """

    name = "mdl"
    version = 4
    goal = "how many bits of an answer does its hidden state spare, the effort of learning to read included?"
    paper = "Voita & Titov 2020, Information-Theoretic Probing with Minimum Description Length (arXiv 2003.12298)"

    kinds = "language, classifier"
    needs = ""
    decides = True

    def read_layers(self, train: Layers, select: Layers, certify: Layers, seed: int) -> ProbeReading:
        """Fits one probe a place, and one a block at the place that is chosen.

        Merits by place are geometric means of the right answers' probabilities, so that the largest is the shortest
        code. Notes are in bits an item: of the online code, of blind guessing, and of answers that were shuffled.
        """
        places = {name: Place(name, learn_code) for name in train.states}
        reading = read_places(places, train, select, certify, seed, merit=_geometric_mean)
        place, states = places[reading.layer], train.states[reading.layer]
        bits = online_code(place, states, train.items, answers_of(train.items), seed)
        control = online_code(place, states, train.items, shuffled(train.items, seed), seed)
        uniform = float(np.mean([np.log2(len(item.choices)) for item in train.items]))
        compression = uniform / bits if bits > 0 else 1.0  # without a choice there is nothing to send
        notes = {"bits": bits, "uniform bits": uniform, "compression": compression, "control bits": control}
        return replace(reading, notes=notes)


def online_code(place: Place, states: States, items: tuple[Item, ...], answers: Answers, seed: int) -> float:
    """Returns the mean length of an item's code, in bits.

    The first block is sent blindly, each later one with the probe of all that went before it.

    Args:
        place: whose probe gives the probability of an item's right answer.
        states: of the items, [items, hidden].
        items: whose choices are known to both sides.
        answers: what is sent, [items], each among its item's choices.
        seed: of the order.

    Source: Voita & Titov 2020, equation 3.
    """
    sent = tuple(replace(item, answer=item.choices.index(str(a))) for item, a in zip(items, answers, strict=True))
    bits, known = 0.0, np.array([], dtype=int)
    for block in _blocks(items, seed):
        read = place.reader(states[known], answers[known])
        bits -= float(np.log2(read(states[block], tuple(sent[row] for row in block))).sum())
        known = np.concatenate([known, block])
    return bits / len(items)


def _blocks(items: tuple[Item, ...], seed: int) -> Iterator[NDArray[np.int_]]:
    """Yields the rows of each block, in an order drawn by group: no block tells of a fact that the next asks for."""
    groups = np.array([item.group for item in items])
    order = np.random.default_rng(seed).permutation(np.unique(groups))
    ends = np.cumsum([(groups == group).sum() for group in order])
    start = 0
    for share in BLOCKS:
        end = max(start, int(np.searchsorted(ends, share * len(items))) + 1)
        if end > start:  # few groups fill few blocks
            yield np.flatnonzero(np.isin(groups, order[start:end]))
        start = end


@dataclass(frozen=True, slots=True)
class Coder:
    """Probabilities of an item's own choices.

    Attributes:
        probe: what was learnt.
        seen: how often each answer was.
    """

    probe: Logistic
    seen: Counter[str]

    def probabilities(self, states: States, items: tuple[Item, ...]) -> Scores:
        """Returns the probability of each item's right choice among its own, [items].

        With n answers of its k choices seen, and q the probe's probability, it is (n q + 1) / (n + k): a choice that
        was never seen has q = 0, and still a code.
        """
        right = np.empty(len(items))
        for row, (item, scores) in enumerate(zip(items, scores_of_choices(self.probe, states, items), strict=True)):
            odds = np.exp(scores - max(scores.max(), -1e300))  # finite where nothing was seen: all are zero
            q = odds[item.answer] / max(odds.sum(), 1e-300)
            seen = sum(self.seen[choice] for choice in item.choices)
            right[row] = (seen * q + PRIOR) / (seen + PRIOR * len(item.choices))
        return right


def learn_code(states: States, answers: Answers) -> Reader:
    """Returns what gives the probability of an item's right choice."""
    return Coder(fit_logistic(states, answers, STRENGTH), Counter(answers.tolist())).probabilities


def _geometric_mean(probabilities: Scores) -> float:
    return float(np.exp(np.log(probabilities).mean()))
