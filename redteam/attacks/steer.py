"""Steering: hidden states are pushed along the difference of forget and retain inputs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import nn

from redteam.attacks.contract import Access, Arena, Params, Suggest
from redteam.engine.activations import hidden_layers, unknown_layers
from redteam.engine.cost import Spent
from redteam.engine.steering import READ, edited, layer_at, layers_at_work, mean_states
from redteam.target import TargetInfo


class Steer:
    """Adds a multiple of the difference of means, forget minus retain, to the states of one layer.

    h <- h + a (m_f - m_r). With a < 0 inputs look less like what was forgotten, which disarms a defence that looks for
    it; with a > 0 they look more like it.

    Source: Turner et al. 2023, Activation Addition (arXiv 2308.10248); Rimsky et al. 2023 (arXiv 2312.06681); as an
    attack on unlearning, Seyitoğlu et al. 2024 (arXiv 2411.02631).
    """

    name = "steer"
    version = 3
    goal = "adds a multiple of the forget direction to the states of one layer"
    paper = "Turner et al. 2023 (arXiv 2308.10248); Seyitoğlu et al. 2024 (arXiv 2411.02631)"
    access = Access.ACTIVATIONS
    kinds = "language, classifier"
    needs = "forgotten"  # without examples the difference is one of two draws of retain items

    def unfit(self, module: nn.Module) -> str | None:
        """Returns why this cannot work on a module: its hidden layers cannot be told."""
        return unknown_layers(module)

    def space(self, suggest: Suggest, target: TargetInfo, samples: int) -> Params:
        """The multiple with its sign, and the depth of the layer."""
        return {
            "sign": suggest.suggest_categorical("sign", ["minus", "plus"]),
            "strength": suggest.suggest_float("strength", 0.1, 10.0, log=True),
            "depth": suggest.suggest_float("depth", 0.0, 1.0),
        }

    def recipes(self, target: TargetInfo, samples: int) -> Sequence[Params]:
        """One difference away and one towards, at half the depth; then at the last layer, and three away."""
        settings = (("minus", 1.0, 0.5), ("plus", 1.0, 0.5), ("minus", 1.0, 1.0), ("minus", 3.0, 0.5))
        return [{"sign": sign, "strength": strength, "depth": depth} for sign, strength, depth in settings]

    def run(self, arena: Arena, params: Params) -> Iterator[Spent]:
        """Reads both means on the attack split and the retain items, and puts the hook in place."""
        layers = layers_at_work(arena.module, arena.answers, hidden_layers(arena.module))
        layer = layer_at(layers, params["depth"])
        known = (arena.answers, arena.some_retain(READ))
        forget, retain = (mean_states(arena.module, data, (layer,))[layer] for data in known)
        added = (forget - retain) * (params["strength"] if params["sign"] == "plus" else -params["strength"])
        arena.in_place.enter_context(edited(arena.module, {layer: lambda states: states + added}))
        yield arena.ledger.charge_edit()
