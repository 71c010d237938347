"""Shrink and perturb, then fine-tune."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from redteam.attacks.contract import Access, Arena, Params, Suggest
from redteam.attacks.tuning import FULL, at_width, forget_data, recipe, suggest_data, suggest_tuning, tuning_of
from redteam.engine.cost import Spent
from redteam.engine.seeding import seeded
from redteam.target import TargetInfo


class Perturb:
    """Shrinks all weights and adds noise, so that a shallow barrier breaks before what lies under it, then retrains.

    w <- (1 - s) w + s * std(w) * e with e ~ N(0, 1), for each matrix by its own standard deviation; vectors (norms,
    biases) stay, and a matrix of one weight, which has none, gets no noise. Then as `retrain`.

    Source: Ash & Adams 2020, On Warm-Starting Neural Network Training (arXiv 1910.08475); as an attack on unlearning,
    Lee et al. 2025, Distillation Robustifies Unlearning (arXiv 2506.06278).
    """

    name = "perturb"
    version = 4
    goal = "shrinks weights and adds noise, then fine-tunes on forget items"
    paper = "Lee et al. 2025 (arXiv 2506.06278); Ash & Adams 2020 (arXiv 1910.08475)"
    access = Access.WEIGHTS
    kinds = "language, classifier"

    def space(self, suggest: Suggest, target: TargetInfo, samples: int) -> Params:
        """Tuning, data, and the strength of the perturbation."""
        params = suggest_tuning(suggest, FULL) | suggest_data(suggest, samples)
        params["strength"] = suggest.suggest_float("strength", 0.01, 0.6, log=True)
        return params

    def recipes(self, target: TargetInfo, samples: int) -> Sequence[Params]:
        """A light and a heavy perturbation, each before all forget items."""
        base: dict[str, Any] = {"samples": samples, "loss": "answer"}
        recipes = [recipe("adamw", 1e-3, strength=strength, **base) for strength in (0.1, 0.3, 0.02)]
        return at_width(recipes, target, FULL)

    def run(self, arena: Arena, params: Params) -> Iterator[Spent]:
        """Perturbs, then trains on the first `samples` attack items."""
        shrink_and_perturb(arena.module, params["strength"], seeded(arena.seed, "perturb"))
        yield arena.ledger.charge_edit()
        yield from arena.fine_tune(forget_data(arena, params), params["batch_size"], tuning_of(params))


@torch.no_grad()
def shrink_and_perturb(module: nn.Module, strength: float, generator: torch.Generator) -> None:
    """Mixes every matrix, in place, with noise of its own standard deviation; of one weight that is none."""
    for parameter in module.parameters():
        if parameter.ndim >= 2:
            spread = parameter.std() if parameter.numel() > 1 else 0.0
            noise = torch.randn(parameter.shape, generator=generator).to(parameter.device) * spread
            parameter.lerp_(noise, strength)
