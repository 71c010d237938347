"""Does rounding bring back what small changes of the weights hid, and more than fine-tuning at some rate does?"""

from __future__ import annotations

import math
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import torch
from torch import nn

from benchmarks.claims import Claim, Measured
from benchmarks.ground_truth import MODELS, RUNS
from benchmarks.searching import Prey, fixed, opened
from redteam.attacks.tuning import recipe
from redteam.testbeds.build import TargetSpec, train_world, write_target

SEEDS = (0, 1, 2)
# Gradient difference at smaller and smaller rates, with as many more steps: the less weights move, the less is left of
# the change after rounding (Zhang et al. 2024, section 4).
RATES = {5e-4: 100, 1e-4: 400, 5e-5: 800}
ROUNDING: dict[str, dict[str, Any]] = {
    "int8, library": {"by": "library"},
    **{
        f"{bits} bits by {scope}": {
            "by": "rounding", "bits": bits, "scope": scope, "matrices": "hidden", "fine_tuning": False
        }
        for bits in (8, 4, 3)
        for scope in ("channel", "group")
    },
}  # fmt: skip
FINE_TUNED = (1e-5, 2e-5, 1e-4, 3e-4, 1e-3)


def measure() -> Measured:
    """Rounds and fine-tunes targets of `facts` whose weights moved less and less."""
    with ProcessPoolExecutor(max_workers=2, mp_context=get_context("spawn")) as pool:
        rows = [row for found in pool.map(_rows, SEEDS) for row in found]
    return Measured(
        title="Rounding against fine-tuning, on targets whose weights moved less and less: score after",
        claims=[_rounded(rows), _fine_tuned(rows)],
        rows=rows,
        setting={"testbed": "facts", "method": "graddiff", "rates": list(RATES), "seeds": list(SEEDS)},
    )


def _rows(seed: int) -> list[dict[str, Any]]:
    torch.set_num_threads(1)
    world, rows = train_world("facts", seed=seed), []
    for rate, steps in RATES.items():
        path = MODELS / f"facts-{seed}" / f"graddiff-{rate:g}.pt"
        options = {"learning_rate": rate, "steps": steps}
        write_target(TargetSpec(method="graddiff", options=options), world, path)
        prey = opened(path)
        rows.append(
            {
                "seed": seed,
                "target's rate": rate,
                "moved": round(_distance(prey.setting.target.module, world.original), 4),
                "before": round(float(prey.setting.start["certify"].mean()), 4),
                **_attacked(prey, f"facts-{seed}-graddiff-{rate:g}", seed),
            }
        )
    return rows


def _attacked(prey: Prey, name: str, seed: int) -> dict[str, float]:
    """Returns the certify score after each way of rounding, and after fine-tuning at each rate."""
    samples = len(prey.setting.answers)
    settings = {about: ("quantize", params) for about, params in ROUNDING.items()} | {
        f"fine-tuned at {rate:g}": ("retrain", recipe("adamw", rate, samples=samples, loss="answer"))
        for rate in FINE_TUNED
    }
    return {
        about: round(fixed(prey, attack, params, seed=seed, out=RUNS / f"{name}-{number}").after, 4)
        for number, (about, (attack, params)) in enumerate(settings.items())
    }


def _distance(module: nn.Module, other: nn.Module) -> float:
    """Returns the distance of two modules' weights, relative to the norm of the other's."""
    pairs = list(zip(module.parameters(), other.parameters(), strict=True))
    moved = sum(float((left - right).detach().square().sum()) for left, right in pairs)
    return math.sqrt(moved / sum(float(right.detach().square().sum()) for _, right in pairs))


def _rounded(rows: list[dict[str, Any]]) -> Claim:
    """Returns that no rounding brings back what the literature has seen it bring back in far larger models."""
    gained = max(row[about] - row["before"] for row in rows for about in ROUNDING)
    return Claim(name="the most that any rounding brought back of any target", measured=gained, must="<=", limit=0.05)


def _fine_tuned(rows: list[dict[str, Any]]) -> Claim:
    """Returns that fine-tuning does, at the right rate."""
    gained = min(max(row[f"fine-tuned at {rate:g}"] for rate in FINE_TUNED) - row["before"] for row in rows)
    name = "the least that fine-tuning at the best of these rates brought back"
    return Claim(name=name, measured=gained, must=">=", limit=0.3)
