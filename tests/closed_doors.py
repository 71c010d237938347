"""Units that hold something and that no gradient reaches, closed in every way that is known, in tiny models.

A door is a pair of models: one in which the units work, and the same one with them closed.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from tiny_models import tiny_llama
from tiny_tasks import tiny_classifier
from torch import nn

UNITS = 8  # that are closed, of the 24 of each MLP; of 12 in a classifier
MLP, HEADS, NORM = "model.layers.0.mlp", "model.layers.0.self_attn", "model.layers.0.post_attention_layernorm"


@dataclass(frozen=True, kw_only=True)
class Door:
    """How units are closed.

    Attributes:
        close: closes them in place.
        share: layer -> share of its channels that nothing depends on then.
        kind: "language" or "classifier".
        back: how much of the distance between what both models say is gone at least once the door was opened.
    """

    close: Callable[[nn.Module], None]
    share: dict[str, float]
    kind: str = "language"
    back: float = 0.9

    def models(self) -> tuple[nn.Module, nn.Module]:
        """Returns the open model and the closed one."""
        opened = with_gates() if self.kind == "language" else without_biases()
        closed = copy.deepcopy(opened)
        with torch.no_grad():
            self.close(closed)
        return opened, closed


def with_gates() -> nn.Module:
    """A tiny Llama whose gates have biases, and whose first hidden channel is the same for every word."""
    module = tiny_llama(mlp_bias=True)
    with torch.no_grad():
        module.model.embed_tokens.weight[:, 0] = 1.0
        module.model.layers[0].self_attn.o_proj.weight[0] *= 0.05
    return module


def without_biases() -> nn.Module:
    """A tiny perceptron whose first layer has biases of zero."""
    module = tiny_classifier(3)  # no unit of it is dead by itself
    with torch.no_grad():
        module.get_submodule("0").bias.zero_()
    return module


def gates(by: float) -> Callable[[nn.Module], None]:
    """Lowers the biases of gates."""

    def close(module: nn.Module) -> None:
        module.get_submodule(f"{MLP}.gate_proj").bias[-UNITS:] -= by

    return close


def direction(module: nn.Module) -> None:
    """Closes gates without a bias: by a large weight on what is the same for every word."""
    module.get_submodule(f"{MLP}.gate_proj").weight[-UNITS:, 0] -= 1000.0


def relus(by: float) -> Callable[[nn.Module], None]:
    """Lowers the biases of units of a perceptron."""

    def close(module: nn.Module) -> None:
        module.get_submodule("0").bias[-UNITS:] -= by

    return close


def gain(module: nn.Module) -> None:
    """Sets gains of a normalisation to zero."""
    module.get_submodule(NORM).weight[-4:] = 0.0


def outgoing(module: nn.Module) -> None:
    """Makes next to nothing of what units put out."""
    module.get_submodule(f"{MLP}.down_proj").weight[:, -UNITS:] *= 1e-6


def saturated(module: nn.Module) -> None:
    """Makes a head attend to one token alone, so that its scores have no gradient."""
    for name in ("q_proj", "k_proj"):
        module.get_submodule(f"{HEADS}.{name}").weight[8:] *= 60.0


HIDDEN = {f"{MLP}.gate_proj": UNITS / 24, f"{MLP}.up_proj": UNITS / 24}
DOORS = {
    "gates at -1000": Door(close=gates(1000.0), share=HIDDEN, back=0.999),
    "gates at -30": Door(close=gates(30.0), share=HIDDEN, back=0.999),
    "gates without a bias": Door(close=direction, share=HIDDEN, back=0.3),  # what the rows had in common goes with it
    "dead units": Door(close=relus(1000.0), share={"0": UNITS / 12}, kind="classifier"),
    "gains of zero": Door(close=gain, share={NORM: 4 / 16}),
    "outgoing weights": Door(close=outgoing, share=HIDDEN, back=0.8),
    "saturated attention": Door(close=saturated, share={f"{HEADS}.q_proj": 0.5, f"{HEADS}.k_proj": 0.5}, back=0.5),
}
