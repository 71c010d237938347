"""Tiny classifiers and the world they know: two classes of points to forget, two to keep."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from redteam.architectures.mlp import MLP
from redteam.capabilities.items import Capability, Item
from redteam.capabilities.reading import encode_training
from redteam.engine.batches import shuffled_batches
from redteam.engine.loop import train
from redteam.engine.optimizers import Tuning
from redteam.engine.seeding import seeded
from redteam.target import Target

SIZES = (6, 16, 12, 4)
SPLITS = {"attack": (0, 12), "select": (12, 24), "certify": (24, 54), "retain": (60, 100), "utility": (100, 130)}


def tiny_mlp(seed: int = 0, sizes: tuple[int, ...] = SIZES) -> MLP:
    """An untrained perceptron, the same for a seed, in evaluation mode."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        return MLP(sizes).eval()


def tiny_points(seed: int = 0, **changes: Any) -> Capability:
    """Noisy points around four corners, [130, 2, 3]: rows below 60 are of classes 0 and 1, which are to go."""
    rng = np.random.default_rng(seed)
    classes = np.array([row % 2 if row < 60 else 2 + row % 2 for row in range(130)])
    corners = np.array([[2, 0, 0, 0, 1, 0], [0, 2, 0, 0, 0, 1], [0, 0, 2, 0, 1, 0], [0, 0, 0, 2, 0, 1]])
    inputs = (corners[classes] + rng.normal(0, 0.3, (130, 6))).astype(np.float32).reshape(130, 2, 3)

    def items(first: int, last: int) -> tuple[Item, ...]:
        return tuple(
            Item(id=f"p{r}", group=f"p{r}", prompt="a point", choices=tuple("abcd"), answer=int(classes[r]), row=r)
            for r in range(first, last)
        )

    parts: dict[str, Any] = {name: items(*rows) for name, rows in SPLITS.items()}
    return Capability(**{"name": "points", **parts, "inputs": inputs, **changes})


def trained_mlp(capability: Capability, *, forget: bool, seed: int = 0) -> MLP:
    """A perceptron that learned what is to stay, and with `forget` what is to go as well."""
    module = tiny_mlp(seed)
    shown = capability.retain + (capability.forget if forget else ())
    data = encode_training(capability, shown, None)
    tuning = Tuning(learning_rate=1e-2, schedule="constant", steps=80)
    train(module, shuffled_batches(data, 16, seeded(seed, "order")), tuning)
    return module


def tiny_classifier_target(seed: int = 0, sizes: tuple[int, ...] = SIZES) -> Target:
    """A target around `tiny_mlp`."""
    return Target(name="mlp", sha256="1" * 64, module=tiny_mlp(seed, sizes), tokenizer=None, stored_dtype="float32")
