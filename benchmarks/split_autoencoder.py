"""Gradient routing splits the code of an autoencoder: what one half may not learn is not in it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from benchmarks.claims import Claim, Measured
from redteam.architectures.autoencoder import SplitAutoencoder, certified_error, fit
from redteam.engine.seeding import derive_seed, seeded

HELD_OUT = 0.2


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """Sizes and seeds of one data set, and by how much the wrong half's error must exceed the right one's."""

    hidden: tuple[int, ...]
    half: int
    batch_size: int
    steps: int
    seeds: int
    margin: float


# The margins were set on seed 0, which is not among those that are measured.
SMALL = Setting(hidden=(256, 64), half=4, batch_size=512, steps=1500, seeds=5, margin=1.15)
MNIST = Setting(hidden=(256, 128), half=16, batch_size=256, steps=1000, seeds=8, margin=1.05)


def measure() -> Measured:
    """Trains with and without routing on each seed, on scikit-learn's digits and, if the data are there, on MNIST."""
    sets = {"digits": (SMALL, *_small())}
    if "REDTEAM_DATA" in os.environ:
        sets["mnist"] = (MNIST, *_mnist(Path(os.environ["REDTEAM_DATA"]) / "mnist" / "mnist_train.npz"))
    rows: list[dict[str, Any]] = []
    claims: list[Claim] = []
    for name, (setting, images, digits) in sets.items():
        own = [
            {"images": name, "routing": route, "seed": seed, **run(images, digits, setting, route=route, seed=seed)}
            for route in (True, False)
            for seed in range(1, setting.seeds + 1)
        ]
        rows += own
        claims += claims_of(name, own, setting.margin)
    return Measured(
        title="Split autoencoder: error of decoding a digit from the half that may not learn it, over the other half's",
        claims=claims,
        rows=rows,
        setting={
            name: {"steps": s.steps, "seeds": s.seeds, "batch_size": s.batch_size} for name, (s, *_) in sets.items()
        },
    )


def run(images: Tensor, digits: Tensor, setting: Setting, *, route: bool, seed: int) -> dict[str, float]:
    """Trains one autoencoder; returns the held-out errors of 0-4 and 5-9 from each half, and their ratios."""
    order = torch.randperm(len(images), generator=seeded(seed, "held out"))
    cut = round(HELD_OUT * len(images))
    held, shown = order[:cut], order[cut:]
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(derive_seed(seed, "weights"))
        model = SplitAutoencoder(features=images.shape[1], hidden=setting.hidden, half=setting.half)
    draws = seeded(seed, "order")

    def draw(_step: int) -> tuple[Tensor, Tensor]:
        rows = shown[torch.randint(len(shown), (setting.batch_size,), generator=draws)]
        return images[rows], digits[rows] < 5

    fit(model, draw, steps=setting.steps, route=route)
    low, high = (images[held[part]] for part in (digits[held] < 5, digits[held] >= 5))
    errors = {
        "0-4 from top": certified_error(model, low, 0),
        "0-4 from bottom": certified_error(model, low, 1),
        "5-9 from top": certified_error(model, high, 0),
        "5-9 from bottom": certified_error(model, high, 1),
    }
    ratio = (
        errors["0-4 from bottom"] / errors["0-4 from top"] * errors["5-9 from top"] / errors["5-9 from bottom"]
    ) ** 0.5
    return {**errors, "wrong / right": ratio}


def claims_of(name: str, rows: list[dict[str, Any]], margin: float) -> list[Claim]:
    """Returns that the interval over seeds lies above the margin with routing, and below it without."""
    low, _ = interval([r["wrong / right"] for r in rows if r["routing"]])
    _, high = interval([r["wrong / right"] for r in rows if not r["routing"]])
    return [
        Claim(name=f"{name}, routed: wrong / right half, lower 95 % bound", measured=low, must=">=", limit=margin),
        Claim(name=f"{name}, not routed: the same, upper 95 % bound", measured=high, must="<=", limit=margin),
    ]


def interval(values: list[float]) -> tuple[float, float]:
    """Returns the 95 % interval of a mean, of Student's t distribution on the logarithms."""
    logs = np.log(values)
    reach = stats.t.ppf(0.975, len(logs) - 1) * logs.std(ddof=1) / len(logs) ** 0.5
    return float(np.exp(logs.mean() - reach)), float(np.exp(logs.mean() + reach))


def _small() -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits

    pixels, digits = load_digits(return_X_y=True)
    return torch.tensor(pixels / 8 - 1, dtype=torch.float32), torch.tensor(digits)


def _mnist(path: Path) -> tuple[Tensor, Tensor]:
    with np.load(path) as stored:
        pixels, digits = stored["x"], stored["y"]
    flat = torch.from_numpy(pixels.reshape(len(pixels), -1)).float() / 127.5 - 1
    return flat, torch.from_numpy(digits).long()
