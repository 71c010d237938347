"""The parameters that every fine-tuning adversary shares: how weights are moved, and on how much."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from redteam.attacks.contract import Arena, Params, Suggest
from redteam.engine.batches import Examples
from redteam.engine.cost import Spent
from redteam.engine.optimizers import Tuning
from redteam.target import TargetInfo

# From where an update barely moves a weight to where training falls apart: the rate that works depends on the target.
FULL = {
    "adamw": (1e-6, 1e-2),
    "sgd": (1e-4, 1.0),
    "lion": (1e-7, 1e-3),
    "muon": (1e-6, 1e-2),
    "relative": (1e-6, 1e-2),
    "relative-adam": (1e-6, 1e-2),
}
# Sixteen to 512: Che et al. 2025 (arXiv 2502.05209); 500 steps: Lee et al. 2025, UNDO (arXiv 2506.06278). What holds
# against a hundred steps need not hold against five hundred at a rate at which utility lasts that long.
STEPS = [16, 32, 64, 128, 512]
BATCH_SIZES = [8, 16, 32, 64]
SCHEDULES = ["constant", "cosine", "one-cycle"]  # the last warms up, as attacks of published evaluations mostly do
TUNED_AT = 128  # hidden size of the models on which rates of recipes that are not published ones were found
# Power of the width by which an optimizer's best rate of matrices falls. A step of SGD, clipped to a norm, moves what
# they put out by the rate at any width.
FALLS = {"adamw": 1.0, "lion": 1.0, "muon": 0.5, "relative": 1.0, "relative-adam": 1.0, "sgd": 0.0}


def suggest_tuning(suggest: Suggest, rates: Mapping[str, tuple[float, float]]) -> dict[str, Any]:
    """Proposes optimizer, its learning rate, weight decay, schedule, steps and batch size.

    Args:
        suggest: proposes.
        rates: lowest and highest learning rate of each optimizer that may be chosen.
    """
    optimizer = suggest.suggest_categorical("optimizer", list(rates))
    rate = f"learning_rate.{optimizer}"
    return {
        "optimizer": optimizer,
        rate: suggest.suggest_float(rate, *rates[optimizer], log=True),
        "weight_decay": suggest.suggest_categorical("weight_decay", [0.0, 0.01, 0.1]),
        "schedule": suggest.suggest_categorical("schedule", SCHEDULES),
        "steps": suggest.suggest_categorical("steps", STEPS),
        "batch_size": suggest.suggest_categorical("batch_size", BATCH_SIZES),
    }


def suggest_data(suggest: Suggest, samples: int) -> dict[str, Any]:
    """Proposes how many forget items are trained on, and whether the loss is on their answers or on all their text."""
    return {
        "samples": suggest.suggest_int("samples", 1, samples, log=True),
        "loss": suggest.suggest_categorical("loss", ["answer", "text"]),
    }


def recipe(optimizer: str, learning_rate: float, **changes: Any) -> dict[str, Any]:
    """Returns a setting of `suggest_tuning`: 64 steps of 64 examples at a constant rate, but for the changes.

    A rate that was found on models of width 128 goes through `at_width`.
    """
    return {
        "optimizer": optimizer,
        f"learning_rate.{optimizer}": learning_rate,
        "weight_decay": 0.0,
        "schedule": "constant",
        "steps": 64,
        "batch_size": 64,
        **changes,
    }


def at_width(
    recipes: Sequence[dict[str, Any]], target: TargetInfo, rates: Mapping[str, tuple[float, float]], share: float = 1.0
) -> list[dict[str, Any]]:
    """Returns recipes with the learning rates that do to a target what the given ones do to a model of width 128.

    Of Adam and Lion every entry of a matrix moves by about the rate, all in a direction that the states share, and what
    the matrix puts out moves by rate times width: the rate goes as 1 / width. So do those of published runs: 1e-3 here
    is 3e-5 at a width of 4096. Muon's step has a bounded spectral norm, 0.2 sqrt(width) as it is scaled to Adam's, and
    moves outputs by its square root. Narrower models, and those whose width cannot be told, get the rates as they are.

    Measured: after 4 steps of AdamW at 1e-3 the divergence of two-layer Llamas on other text is 0.017, 0.16 and 0.81
    nats at widths of 128, 512 and 1024. In relative units it grows alike: 0.43, 2.1 and 4.0 nats of freshly drawn ones,
    where AdamW makes it 0.30, 2.0 and 3.8. Source: Yang et al. 2022, Tensor Programs V (arXiv 2203.03466), table 3;
    Muon's scale: Liu et al. 2025 (arXiv 2502.16982).

    Args:
        recipes: settings of `suggest_tuning` with whatever else; one without an optimizer stays as it is.
        target: whose hidden size counts.
        rates: lowest and highest of each optimizer, as of `suggest_tuning`: no rate leaves them.
        share: of the power, where less than whole matrices are trained.
    """
    narrower = TUNED_AT / max(TUNED_AT, target.hidden_size)
    fitted = []
    for given in recipes:
        changed = dict(given)
        if narrower < 1 and "optimizer" in given:
            optimizer = given["optimizer"]
            low, high = rates[optimizer]
            rate = given[f"learning_rate.{optimizer}"] * narrower ** (share * FALLS[optimizer])
            changed[f"learning_rate.{optimizer}"] = min(max(rate, low), high)
        fitted.append(changed)
    return fitted


def tuning_of(params: Params) -> Tuning:
    """Returns the tuning that parameters of `suggest_tuning` stand for; clipped to norm 1 in its units."""
    return Tuning(
        optimizer=params["optimizer"],
        learning_rate=params[f"learning_rate.{params['optimizer']}"],
        schedule=params["schedule"],
        steps=params["steps"],
        weight_decay=params["weight_decay"],
        clip=1.0,
    )


def forget_data(arena: Arena, params: Params) -> Examples:
    """Returns the forget items that parameters of `suggest_data` stand for."""
    data = arena.texts if params["loss"] == "text" else arena.answers
    return data.take(slice(0, params["samples"]))


def edit_then_tune(arena: Arena, params: Params) -> Iterator[Spent]:
    """Charges a change of the weights that was just made, and fine-tunes what is left where `fine_tuning` says so."""
    yield arena.ledger.charge_edit()
    if params["fine_tuning"]:
        yield from arena.fine_tune(forget_data(arena, params), params["batch_size"], tuning_of(params))
