"""RR: representation rerouting, the objective of circuit breakers."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count

import torch
from torch import Tensor, nn
from torch.nn import functional

from redteam.engine.activations import (
    UnknownLayers,
    hidden_layers,
    hidden_states,
    matching_modules,
    matching_parameters,
)
from redteam.engine.batches import AnyBatch
from redteam.engine.optimizers import Tuning
from redteam.errors import InputError
from redteam.unlearning.contract import UnlearningTask
from redteam.unlearning.paired import train_in_pairs


@dataclass(frozen=True, kw_only=True, slots=True)
class RepresentationRerouting:
    """Turns hidden states of forget data away from where they pointed, and holds those of retain data in place.

    At step t of T, L = alpha * (1 - t / 2T) * mean relu(cos(h_F, h0_F)) + alpha * t / 2T * mean |h_R - h0_R|_2, h0
    the original's states, means over real tokens and layers: at first it reroutes, later it repairs as well.

    Source: Zou et al. 2024, Improving Alignment and Robustness with Circuit Breakers, algorithm 1 (arXiv 2406.04313).
    There adapters of low rank are trained on the layers up to the last that is steered; here the weights themselves
    move, all of them or those that `parameters` names. Norms are relative to the mean norm of the original's retain
    states, so that one alpha fits models of any scale.

    Attributes:
        layers: pattern of the modules whose outputs are steered ("model.layers.*.mlp"); every hidden layer if empty.
        parameters: pattern of the parameters that move.
        alpha: weight of both terms.
        learning_rate: of AdamW without weight decay.
        steps: T, optimizer steps.
        batch_size: forget examples a step, and as many retain examples.
    """

    layers: str = ""
    parameters: str = "*"
    alpha: float = 10.0
    learning_rate: float = 5e-4
    steps: int = 150
    batch_size: int = 64

    name = "rr"
    version = 1
    goal = "turns hidden states of forget data away from the original's, holds those of retain data"
    paper = "Zou et al. 2024, Circuit Breakers (arXiv 2406.04313)"
    when = "post hoc"
    kinds = "language, classifier"
    touches = "every weight, or those of a name pattern"
    cost = "a quarter of plain training on facts, all of it on digits"

    def apply(self, task: UnlearningTask) -> nn.Module:
        """Returns the unlearned copy.

        Raises:
            InputError: a pattern matches nothing or what puts out no states, or the model has no hidden layer.
            Diverged: a loss is not finite.
        """
        names, moved = self.look_up(task.original, task.forget.batch(slice(0, 2)))
        steps = count()

        def loss(live: nn.Module, forget: AnyBatch, retain: AnyBatch) -> Tensor:
            progress = next(steps) / (2 * self.steps)
            with torch.no_grad():
                away, kept = (hidden_states(task.original, batch, names) for batch in (forget, retain))
            rerouted = alignment(hidden_states(live, forget, names), away, forget)
            held = distance(hidden_states(live, retain, names), kept, retain)
            return self.alpha * ((1 - progress) * rerouted + progress * held)

        tuning = Tuning(learning_rate=self.learning_rate, steps=self.steps)
        module = copy.deepcopy(task.original)
        return train_in_pairs(
            module, task, loss, tuning, self.batch_size, name=self.name, only=lambda name: name in moved
        )

    def look_up(self, module: nn.Module, batch: AnyBatch) -> tuple[tuple[str, ...], frozenset[str]]:
        """Returns the names of the modules to steer, and of the parameters that move.

        Raises:
            InputError: a pattern matches nothing, or a module does not put out one state a token of the batch.
        """
        try:
            names = matching_modules(module, self.layers) if self.layers else hidden_layers(module)
        except UnknownLayers as error:
            raise InputError(str(error), "Name the modules to steer: layers=PATTERN") from error
        with torch.no_grad():
            states = hidden_states(module, batch, names)
        shape = batch.real.shape
        for name in names:
            if name not in states or states[name].shape[: len(shape)] != shape:
                raise InputError(f"the module {name} does not put out one state a token", "Give another layers=PATTERN")
        return names, frozenset(matching_parameters(module, self.parameters))


States = Mapping[str, Tensor]


def alignment(now: States, before: States, batch: AnyBatch) -> Tensor:
    """Returns the mean over real tokens and layers of relu(cos(now, before)). A scalar.

    Args:
        now: states by layer, [sequences, length, hidden] or [samples, ...].
        before: states of the original, of the same shapes.
        batch: what they are of.
    """
    pairs = zip(vectors(now, batch), vectors(before, batch), strict=True)
    return torch.stack([functional.cosine_similarity(h, h0, dim=-1).relu().mean() for h, h0 in pairs]).mean()


def distance(now: States, before: States, batch: AnyBatch) -> Tensor:
    """Returns the mean over real tokens and layers of |now - before|_2 over the mean norm of `before`. A scalar.

    Args:
        now: states by layer, [sequences, length, hidden] or [samples, ...].
        before: states of the original, of the same shapes.
        batch: what they are of.
    """
    pairs = zip(vectors(now, batch), vectors(before, batch), strict=True)
    return torch.stack(
        [(h - h0).norm(dim=-1).mean() / h0.norm(dim=-1).mean().clamp(min=1e-12) for h, h0 in pairs]
    ).mean()


def vectors(states: States, batch: AnyBatch) -> list[Tensor]:
    """Returns the states of real tokens, one float32 [tokens, entries] a layer; an image's channels are one vector."""
    return [state[batch.real].flatten(1).float() for state in states.values()]
