"""The images of the worlds `digits` and `poison`, and how a small classifier is trained on them."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from redteam.capabilities.items import Capability, Item
from redteam.capabilities.reading import encode_training
from redteam.engine.optimizers import Tuning
from redteam.engine.training import Training

CLASSES = tuple("0123456789")
SIZES = (64, 128, 64, 10)
STEPS, BATCH_SIZE, LEARNING_RATE = 400, 64, 3e-3


def load_images() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Returns the handwritten digits that scikit-learn carries: Alpaydin & Kaynak 1998, the UCI test set.

    Returns:
        1,797 images, float32 [images, 1, 8, 8], from 0 (paper) to 1 (ink); and the digit on each, int64 [images].
    """
    from sklearn.datasets import load_digits

    pixels, digits = load_digits(return_X_y=True)
    return (pixels / 16).astype(np.float32).reshape(-1, 1, 8, 8), digits.astype(np.int64)


def stratified(rows: Iterable[int], digits: NDArray[np.int64], rng: random.Random) -> list[int]:
    """Shuffles rows such that any run of them has the digits in the proportions of the whole.

    Image k of the n of its digit gets the place (k + u) / n, with one uniform u a digit. Among m neighbours of N
    there are then m n / N of a digit, give or take two.

    Args:
        rows: rows of `digits`.
        digits: the digit on each image, int64 [images].
        rng: decides the order.
    """
    by_digit: dict[int, list[int]] = {}
    for row in sorted(rows):
        by_digit.setdefault(int(digits[row]), []).append(row)
    places: list[tuple[float, int]] = []
    for _, own in sorted(by_digit.items()):
        rng.shuffle(own)
        offset = rng.random()
        places += [((rank + offset) / len(own), row) for rank, row in enumerate(own)]
    return [row for _, row in sorted(places)]


def cut(rows: Sequence[int], *sizes: int) -> list[Sequence[int]]:
    """Returns the first rows, the next, ... in parts of these sizes, and last what is left."""
    parts = []
    for size in sizes:
        parts.append(rows[:size])
        rows = rows[size:]
    return [*parts, rows]


def image_items(
    rows: Sequence[int], answers: NDArray[np.int64], *, name: str = "digit {row}", choices: tuple[str, ...] = CLASSES
) -> tuple[Item, ...]:
    """Returns one item an image, each a group of its own: an image is a fact.

    Args:
        rows: of the images.
        answers: what is right for each image, int64 [images].
        name: what an item is called, with {row} for the row.
        choices: names of the classes.
    """
    return tuple(
        Item(
            id=name.format(row=row),
            group=f"digit {row}",
            prompt=name.format(row=row),
            choices=choices,
            answer=int(answers[row]),
            row=row,
        )
        for row in rows
    )


def perceptron_training(capability: Capability, shown: Sequence[Item]) -> tuple[Training, tuple[str, ...]]:
    """Returns how an MLP with two hidden layers is trained from random weights on the items, and the group of each.

    AdamW, one cycle, no weight decay, clipped at norm 1; nothing is labelled.
    """
    from redteam.architectures.mlp import MLP

    def build(seed: int) -> nn.Module:
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(seed)
            return MLP(SIZES)

    training = Training(
        build=build,
        data=encode_training(capability, shown, None),
        labelled=torch.zeros(len(shown), dtype=torch.bool),
        tuning=Tuning(learning_rate=LEARNING_RATE, schedule="one-cycle", steps=STEPS, clip=1.0),
        batch_size=BATCH_SIZE,
    )
    return training, tuple(item.group for item in shown)
