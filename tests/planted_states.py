"""Hidden states whose content is known, for tests of the probes that read them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from tiny_models import make_item

from redteam.capabilities.items import Item
from redteam.probes.contract import Layers

WIDTH, CLASSES = 24, 4
CHANCE = 1 / CLASSES
DIRECTIONS = np.random.default_rng(0).normal(size=(CLASSES, WIDTH))


def items_of(count: int, seed: int, classes: int = CLASSES) -> tuple[Item, ...]:
    """Items of a group each, whose answers are drawn."""
    answers = np.random.default_rng([seed, 1]).integers(classes, size=count)
    choices = tuple(f"w{i}" for i in range(classes))
    return tuple(make_item(n, choices=choices, answer=int(answer)) for n, answer in enumerate(answers))


def planted(items: tuple[Item, ...], seed: int, strength: float = 3.0) -> np.ndarray:
    """Gaussian noise plus a direction for each answer: linearly readable, the better the stronger."""
    noise = np.random.default_rng([seed, 2]).normal(size=(len(items), WIDTH))
    return (noise + strength * DIRECTIONS[[item.answer for item in items]]).astype(np.float32)


def layers(count: int, seed: int, **strengths: float) -> Layers:
    """Items and, by name of a place, states in which their answers are planted as strongly as asked."""
    items = items_of(count, seed)
    states = {name: planted(items, seed * 100 + i, s) for i, (name, s) in enumerate(strengths.items())}
    return Layers(items=items, states=states)


def splits(**strengths: float) -> tuple[Layers, Layers, Layers]:
    """States to learn from, to choose on, and to report on."""
    return layers(120, 1, **strengths), layers(80, 2, **strengths), layers(400, 3, **strengths)


def crossed(count: int, seed: int) -> Layers:
    """Two directions that are each on or off, and the answer is whether just one is: no mean or plane tells it."""
    rng = np.random.default_rng([seed, 3])
    signs = rng.choice([-1, 1], size=(count, 2))
    items = tuple(make_item(n, choices=("w0", "w1"), answer=int(one != other)) for n, (one, other) in enumerate(signs))
    states = rng.normal(size=(count, WIDTH)) + 2 * signs @ DIRECTIONS[:2]
    return Layers(items=items, states={"a": states.astype(np.float32)})


def mixed(count: int, seed: int, strength: float = 0.0) -> Layers:
    """Answers of two kinds in one split, two choices each: an item's chance is one half."""
    answers = np.random.default_rng([seed, 1]).integers(2, size=count)
    kinds = (("w0", "w1"), ("w2", "w3"))
    items = tuple(make_item(n, choices=kinds[n % 2], answer=int(a)) for n, a in enumerate(answers))
    noise = np.random.default_rng([seed, 2]).normal(size=(count, WIDTH))
    signal = DIRECTIONS[[2 * (n % 2) + item.answer for n, item in enumerate(items)]]
    return Layers(items=items, states={"a": (noise + strength * signal).astype(np.float32)})


def accuracy(scores: Sequence[float]) -> float:
    """Their mean."""
    return sum(scores) / len(scores)


def near_chance(scores: Sequence[float], chance: float = CHANCE) -> bool:
    """Within four standard errors of chance: wrong once in 16,000 draws, and the draws are fixed."""
    return abs(accuracy(scores) - chance) < 4 * (chance * (1 - chance) / len(scores)) ** 0.5
