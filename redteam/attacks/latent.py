"""Latent perturbation: one vector, added to every state of a layer, trained on forget items."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import nn

from redteam.attacks.contract import Access, Arena, Params, Suggest
from redteam.attacks.tuning import forget_data, recipe, suggest_data, suggest_tuning, tuning_of
from redteam.engine.activations import hidden_layers, unknown_layers
from redteam.engine.cost import Spent
from redteam.engine.steering import edited, layer_at, layers_at_work, mean_norm, mean_states, shorten
from redteam.target import TargetInfo

RATES = {"adamw": (1e-4, 1.0)}


class Latent:
    """Trains a universal perturbation of one layer's states under a norm bound, scored on facts it never saw.

    h <- h + d, |d| <= b times the mean of |h| on forget items; d lowers the loss on the answers of n forget items and
    is projected onto the ball after every step. One d for all inputs and positions: it can switch something on, but
    hardly teach.

    Source: Casper et al. 2024, Defending Against Unforeseen Failure Modes with Latent Adversarial Training
    (arXiv 2403.05030); as an attack on unlearning, Che et al. 2025 (arXiv 2502.05209).
    """

    name = "latent"
    version = 4
    goal = "trains one bounded vector that is added to a layer's states"
    paper = "Che et al. 2025 (arXiv 2502.05209); Casper et al. 2024 (arXiv 2403.05030)"
    access = Access.ACTIVATIONS
    kinds = "language, classifier"

    def unfit(self, module: nn.Module) -> str | None:
        """Returns why this cannot work on a module: its hidden layers cannot be told."""
        return unknown_layers(module)

    def space(self, suggest: Suggest, target: TargetInfo, samples: int) -> Params:
        """Tuning, data, the bound, and the depth of the layer."""
        params = suggest_tuning(suggest, RATES) | suggest_data(suggest, samples)
        params["bound"] = suggest.suggest_float("bound", 0.05, 5.0, log=True)
        params["depth"] = suggest.suggest_float("depth", 0.0, 1.0)
        return params

    def recipes(self, target: TargetInfo, samples: int) -> Sequence[Params]:
        """A vector as long as a state is on average, at the first, middle and last layer."""
        base = {"samples": samples, "loss": "answer", "bound": 1.0}
        return [recipe("adamw", 0.03, depth=depth, **base) for depth in (0.5, 0.0, 1.0)]

    def run(self, arena: Arena, params: Params) -> Iterator[Spent]:
        """Puts the hook in place and trains the vector on the first `samples` attack items."""
        layers = layers_at_work(arena.module, arena.answers, hidden_layers(arena.module))
        layer = layer_at(layers, params["depth"])
        added = nn.Parameter(torch.zeros_like(mean_states(arena.module, arena.answers, (layer,))[layer]))
        most = params["bound"] * mean_norm(arena.module, arena.answers, layer)
        arena.in_place.enter_context(edited(arena.module, {layer: lambda states: states + added}))
        data = forget_data(arena, params)
        for spent in arena.fine_tune(data, params["batch_size"], tuning_of(params), parameters=[added]):
            shorten(added, most)
            yield spent
