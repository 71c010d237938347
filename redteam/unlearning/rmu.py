"""RMU: representation misdirection for unlearning."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from redteam.engine.activations import (
    UnknownLayers,
    hidden_layers,
    hidden_states,
    matching_modules,
    matching_parameters,
)
from redteam.engine.batches import AnyBatch, Batch, shuffled_batches
from redteam.engine.loop import train
from redteam.engine.optimizers import Tuning
from redteam.engine.seeding import seeded
from redteam.errors import InputError
from redteam.unlearning.contract import UnlearningTask

# What the architectures of transformers call an MLP's projection back to the residual stream, inside a decoder layer.
DOWN_PROJECTIONS = (
    "mlp.down_proj.*",
    "mlp.c_proj.*",
    "mlp.dense_4h_to_h.*",
    "mlp.fc2.*",
    "mlp.fc_out.*",
    "mlp.w2.*",
    "mlp.experts.*down_proj*",
    "block_sparse_moe.experts.*w2.*",
    "feed_forward.w2.*",
    "ffn.down_proj.*",
    "fc2.*",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class RMU:
    """Pushes a layer's state on forget text to a fixed random direction and holds it on retain text.

    L = MSE(h_l(x_f), u) + alpha * MSE(h_l(x_r), h_l(x_r; theta_0)) over non-padding tokens, with u = c * n * r / |r|,
    r ~ U[0, 1]^d drawn once and n the mean norm of the original's states on forget text. Only the MLP
    down-projections of layers l-2 to l move, selected by name. Of a classifier, an input is one token, its state
    flattened, and the weights of layers l-2 to l move.

    Source: Li et al. 2024, The WMDP Benchmark, section 4 (arXiv 2403.03218). There c is absolute (6.5 for a mean
    norm of about 3); here it is relative to the norm, so that one value fits models of any scale.

    Attributes:
        layer: l, a shell pattern over module names that one module matches; empty for the last hidden layer.
        moved: which parameters move, a shell pattern over their names; empty for the MLP
            down-projections of that layer and the two before it.
        steering: c, in multiples of the mean norm.
        alpha: weight of the retain term.
        learning_rate: of AdamW without weight decay.
        steps: optimizer steps.
        batch_size: forget examples a step, and as many retain examples.
    """

    layer: str = ""
    moved: str = ""
    steering: float = 4.0
    alpha: float = 8.0
    learning_rate: float = 2e-3
    steps: int = 150
    batch_size: int = 64

    name = "rmu"
    version = 1
    goal = "steers a layer's states on forget data to noise, holds them on retain data"
    paper = "Li et al. 2024, The WMDP Benchmark (arXiv 2403.03218)"
    when = "post hoc"
    kinds = "language, classifier"
    touches = "the MLP down-projections (of a classifier, the weights) of one layer and the two before it"
    cost = "150 steps of 64 and 64 examples: a fifth of plain training on facts"

    def apply(self, task: UnlearningTask) -> nn.Module:
        """Returns the unlearned copy.

        Raises:
            InputError: the layer or the weights that move cannot be told by name.
            Diverged: a loss is not finite.
        """
        layer, moved = self.look_up(task.original, task.forget.batch(slice(0, 2)))
        module = copy.deepcopy(task.original)
        direction = self._direction(task, layer)
        retain = shuffled_batches(task.retain, self.batch_size, seeded(task.seed, "rmu", "retain"))

        def loss(live: nn.Module, forget: AnyBatch) -> Tensor:
            kept = next(retain)
            with torch.no_grad():
                frozen = states(task.original, kept, layer)
            steered = masked_mse(states(live, forget, layer), direction, forget)
            return steered + self.alpha * masked_mse(states(live, kept, layer), frozen, kept)

        train(
            module,
            shuffled_batches(task.forget, self.batch_size, seeded(task.seed, "rmu", "forget")),
            Tuning(learning_rate=self.learning_rate, steps=self.steps),
            loss=loss,
            only=lambda name: name in moved,
            on_step=lambda done: task.progress("unlearning (rmu)", done, self.steps),
        )
        return module

    def look_up(self, module: nn.Module, batch: AnyBatch) -> tuple[str, frozenset[str]]:
        """Returns the name of the layer and those of the parameters that move.

        Raises:
            InputError: they cannot be told by name, or the layer puts out no states of the batch.
        """
        layer = chosen_layer(module, self.layer)
        moved = self._moved(module, layer, DOWN_PROJECTIONS if isinstance(batch, Batch) else ("*",))
        with torch.no_grad():
            states(module, batch, layer)
        return layer, moved

    def _moved(self, module: nn.Module, layer: str, inside: Sequence[str]) -> frozenset[str]:
        """Returns the names of the parameters that move: those of the option, or what `inside` matches near a layer."""
        if self.moved:
            return frozenset(matching_parameters(module, self.moved))
        found = _parameters_up_to(module, layer, inside)
        if not found:
            raise InputError(
                f"the layers up to {layer} have no MLP down-projection of a known name",
                "Say which weights move with the option moved, such as '*.down_proj.weight'",
            )
        return found

    def _direction(self, task: UnlearningTask, layer: str) -> Tensor:
        """Returns u, float32 [width of the state]."""
        with torch.no_grad():
            sample = task.forget.batch(slice(0, 64))
            kept = states(task.original, sample, layer)
        drawn = torch.rand(kept.shape[-1], generator=seeded(task.seed, "rmu", "direction"))
        norm = kept.norm(dim=-1)[sample.real].mean()
        direction: Tensor = drawn * (self.steering * norm / drawn.norm())
        return direction


def chosen_layer(module: nn.Module, pattern: str) -> str:
    """Returns the name of the one submodule that a shell pattern matches; of the last hidden layer where it is empty.

    Raises:
        InputError: none or several match, or it cannot be told which is the last.
    """
    if not pattern:
        return _layers(module)[-1]
    found = matching_modules(module, pattern)
    if len(found) > 1:
        raise InputError(f"{pattern!r} matches {len(found)} modules: {', '.join(found[:3])}", "Name one layer")
    return found[0]


def states(module: nn.Module, batch: AnyBatch, layer: str) -> Tensor:
    """Returns the output of `layer`: [sequences, length, hidden], or of a classifier [samples, width].

    Raises:
        InputError: the layer takes no part in a forward pass.
    """
    kept = hidden_states(module, batch, (layer,))
    if layer not in kept:
        raise InputError(f"the module {layer} puts out no states", "Name a layer that every input passes through")
    return kept[layer].flatten(batch.real.dim())


def masked_mse(left: Tensor, right: Tensor, batch: AnyBatch) -> Tensor:
    """Mean squared difference over the entries of non-padding tokens. A scalar."""
    squared = (left - right).square().mean(dim=-1)
    if bool(batch.real.all()):
        return squared.mean()
    return (squared * batch.real).sum() / batch.real.sum()


def _layers(module: nn.Module) -> tuple[str, ...]:
    try:
        return hidden_layers(module)
    except UnknownLayers as error:
        raise InputError(str(error), "Name the layer and the weights that move (options layer and moved)") from error


def _parameters_up_to(module: nn.Module, layer: str, inside: Sequence[str]) -> frozenset[str]:
    """Returns the parameters of the hidden layer that is or holds `layer`, and of the two before it.

    Args:
        module: whose parameters.
        layer: a name of a submodule.
        inside: shell patterns; a parameter's name without its hidden layer's must match one of them.

    Raises:
        InputError: the submodule is in no hidden layer.
    """
    names = _layers(module)
    at = [place for place, name in enumerate(names) if f"{layer}.".startswith(f"{name}.")]
    if not at:
        raise InputError(
            f"{layer} is in none of the hidden layers ({names[0]} ... {names[-1]})",
            "Say which weights move with the option moved",
        )
    near = names[max(0, at[0] - 2) : at[0] + 1]
    return frozenset(
        parameter
        for parameter, _ in module.named_parameters()
        for name in near
        if parameter.startswith(f"{name}.")
        and any(fnmatchcase(parameter.removeprefix(f"{name}."), pattern) for pattern in inside)
    )
