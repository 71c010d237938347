"""Small classifiers of images and of points: a class is removed from some, and others never saw it."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.class_transformers import Patches, article_reader, passages, word_tokenizer
from redteam.capabilities.items import Capability, Item, Texts
from redteam.capabilities.reading import encode_training
from redteam.capabilities.scorers.recall import Recall
from redteam.engine.batches import LabelledSet, join, shuffled_batches
from redteam.engine.loop import train
from redteam.engine.optimizers import Tuning
from redteam.engine.seeding import derive_seed, seeded
from redteam.testbeds.images import load_images

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DATA = os.environ.get("REDTEAM_DATA", "")
REFERENCES, TWINS = 3, 3  # models that never knew: given as references, and attacked as targets
SPLITS = {"attack": 32, "select": 40, "certify": 90}  # examples of the class at most; certify gets what is left
HELD = 320  # examples of other classes that measure utility, and as many more that the line is drawn by
BATCH = 64
FEW = range(10, 11)  # of transformers: each row takes longer


@dataclass(frozen=True, slots=True)
class Labelled:
    """Examples and their classes.

    Attributes:
        inputs: float32 [n, ...]; of texts their tokens, int64 [n, tokens].
        labels: int64 [n].
        texts: what the tokens are of.
        tokenizer: that made them.
    """

    inputs: NDArray[Any]
    labels: NDArray[np.int64]
    texts: tuple[str, ...] = ()
    tokenizer: PreTrainedTokenizerBase | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class DataSet:
    """A data set, and how a small model of it is trained.

    Attributes:
        name: for people.
        load: returns its examples.
        build: returns a model with weights drawn by a seed.
        steps: of training.
        learning_rate: of AdamW, one cycle.
        retain: examples of what stays at most that models are trained on.
        seeds: of its worlds. None was looked at when the rule was chosen.
        version: of its worlds; raised with every change of them.
    """

    name: str
    load: Callable[[], Labelled]
    build: Callable[[], nn.Module]
    steps: int = 500
    learning_rate: float = 3e-3
    retain: int = 2500
    seeds: range = range(10, 13)
    version: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassWorld:
    """What the targets of one data set and seed have in common.

    Attributes:
        data: the data set.
        seed: of all of it; it also says which class is forgotten.
        capability: what was removed.
        forget: all examples of the class that the original was trained on.
        retain: all others.
        original: knows every class.
        references: never saw an example of the class.
        twins: nor did these, which are attacked as targets.
        tokenizer: of models that read text.
    """

    data: DataSet
    seed: int
    capability: Capability
    forget: LabelledSet
    retain: LabelledSet
    original: nn.Module
    references: tuple[nn.Module, ...]
    twins: tuple[nn.Module, ...]
    tokenizer: PreTrainedTokenizerBase | None

    @property
    def forgotten(self) -> int:
        """The number of the class."""
        return self.capability.forgotten[0]


def class_world(data: DataSet, seed: int) -> ClassWorld:
    """Splits a data set, and trains the models of a world. Deterministic for a seed and a thread count."""
    held = data.load()
    count = int(held.labels.max()) + 1
    forgotten = (3 + 2 * seed) % count
    capability = _capability(data.name, held, forgotten, seed, data.retain)
    forget, retain = (_examples(capability, items) for items in (capability.forget, capability.retain))
    known = join(forget, retain)
    assert isinstance(known, LabelledSet)
    names = [f"reference {n}" for n in range(REFERENCES)] + [f"twin {n}" for n in range(TWINS)]
    never = tuple(fitted(data, retain, derive_seed(seed, data.name, name)) for name in names)
    return ClassWorld(
        data=data,
        seed=seed,
        capability=capability,
        forget=forget,
        retain=retain,
        original=fitted(data, known, derive_seed(seed, data.name, "original")),
        references=never[:REFERENCES],
        twins=never[REFERENCES:],
        tokenizer=held.tokenizer,
    )


def fitted(data: DataSet, examples: LabelledSet, seed: int) -> nn.Module:
    """Returns a model that was trained on examples from weights drawn by a seed."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        module = data.build()
    tuning = Tuning(learning_rate=data.learning_rate, schedule="one-cycle", steps=data.steps, clip=1.0)
    train(module, shuffled_batches(examples, BATCH, seeded(seed, "batches")), tuning)
    return module.eval()


def _capability(name: str, held: Labelled, forgotten: int, seed: int, retain: int) -> Capability:
    labels, rows = held.labels, list(range(len(held.labels)))
    random.Random(f"{name} {seed}").shuffle(rows)
    names = tuple(str(number) for number in range(int(labels.max()) + 1))
    own, others = ([row for row in rows if bool(labels[row] == forgotten) == wanted] for wanted in (True, False))

    def items(chosen: Sequence[int]) -> tuple[Item, ...]:
        return tuple(
            Item(id=f"{name} {row}", group=str(row), prompt="", choices=names, answer=int(labels[row]), row=row)
            for row in chosen
        )

    cuts = np.cumsum([0, *SPLITS.values()]).tolist()
    attack, select, certify = (items(own[start:end]) for start, end in pairwise(cuts))
    return Capability(
        name=f"class {forgotten} of {name}",
        attack=attack,
        select=select,
        certify=certify,
        utility=items(others[:HELD]),
        negatives=items(others[HELD : 2 * HELD]),
        retain=items(others[2 * HELD : 2 * HELD + retain]),
        inputs=held.inputs,
        texts=Texts(held.texts) if held.texts else None,
        scorers=(Recall(),),
    )


def _examples(capability: Capability, items: Sequence[Item]) -> LabelledSet:
    found = encode_training(capability, items, None)
    assert isinstance(found, LabelledSet)
    return found


class Convolutional(nn.Module):
    """Two convolutions in strides of two, a hidden layer, and a head; for images of 28 x 28."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 12, 3, stride=2, padding=1)
        self.second = nn.Conv2d(12, 24, 3, stride=2, padding=1)
        self.hidden, self.head = nn.Linear(24 * 7 * 7, 64), nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Returns logits [n, 10] of images [n, 1, 28, 28]."""
        states = self.second(self.first(images).relu()).relu()
        logits: Tensor = self.head(self.hidden(states.flatten(1)).relu())
        return logits


def perceptron(inputs: int, classes: int) -> nn.Module:
    """Returns a perceptron with two hidden layers."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(inputs, 96), nn.ReLU(), nn.Linear(96, 64), nn.ReLU(), nn.Linear(64, classes)
    )


def _digits() -> Labelled:
    return Labelled(*load_images())


def _mnist() -> Labelled:
    with np.load(Path(DATA) / "mnist" / "mnist_train.npz") as held:
        rows = np.random.default_rng(0).permutation(len(held["y"]))[:4000]  # the file is sorted by class
        images = (held["x"][rows].astype(np.float32) / 255).reshape(-1, 1, 28, 28)
        return Labelled(images, held["y"][rows].astype(np.int64))


def _points() -> Labelled:
    """Returns points in 24 dimensions, of eight classes that are two overlapping clouds each."""
    from sklearn.datasets import make_classification

    points, classes = make_classification(
        n_samples=4000, n_features=24, n_informative=14, n_redundant=6, n_classes=8, n_clusters_per_class=2,
        class_sep=1.6, flip_y=0.0, random_state=0,
    )  # fmt: skip
    return Labelled((points / points.std(axis=0)).astype(np.float32), classes.astype(np.int64))


def _articles() -> Labelled:
    texts, labels = passages()
    tokenizer = word_tokenizer(texts)
    return Labelled(np.array(tokenizer(list(texts))["input_ids"]), labels, texts, tokenizer)


DATA_SETS = {
    data.name: data
    for data in (
        DataSet(name="digits", load=_digits, build=lambda: perceptron(64, 10), retain=1000),
        DataSet(name="mnist", load=_mnist, build=Convolutional, version=2),
        DataSet(name="points", load=_points, build=lambda: perceptron(24, 8)),
        DataSet(name="vit", load=_digits, build=lambda: Patches(10), retain=1000, seeds=FEW),
        DataSet(name="bert", load=_articles, build=article_reader, steps=600, learning_rate=1e-3, seeds=FEW),
    )
}
