"""Changing hidden states while a module runs, through hooks that always go away; and what the states are like."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from redteam.engine.activations import hidden_states
from redteam.engine.batches import Examples, ordered_batches
from redteam.engine.devices import device_of
from redteam.engine.hooks import hooked
from redteam.engine.routing import labelled_positions

READ = 512  # examples that states are averaged over
Edit = Callable[[Tensor], Tensor]


@contextmanager
def edited(module: nn.Module, edits: Mapping[str, Edit]) -> Iterator[None]:
    """While open, the named submodules put out what the edits make of their outputs.

    Args:
        module: run by the caller.
        edits: name of a submodule -> what its output, [sequences, length, hidden] or [samples, ...], becomes.

    Raises:
        AttributeError: there is no submodule of a name.
    """

    def hook_of(edit: Edit) -> Callable[[nn.Module, Any, Any], Any]:
        def hook(_part: nn.Module, _given: Any, output: Any) -> Any:
            return (edit(output[0]), *output[1:]) if isinstance(output, tuple) else edit(output)

        return hook

    with hooked(module, {name: hook_of(edit) for name, edit in edits.items()}):
        yield


@torch.no_grad()
def mean_states(module: nn.Module, data: Examples, layers: tuple[str, ...]) -> dict[str, Tensor]:
    """Returns the mean state of each layer where labelled tokens are predicted; of a classifier, of all that it reads.

    Args:
        module: put in evaluation mode meanwhile.
        data: the first `READ` examples of it are read, so that what is not in an order of chance is drawn before.
        layers: names of submodules.

    Returns:
        Layer -> float [hidden], of a classifier of the shape of one sample's state.
    """
    sums, count = dict[str, Tensor](), 0
    for batch in _read(module, data, layers):
        for layer, states in batch.items():
            total = states.sum(dim=0)
            sums[layer] = sums[layer] + total if layer in sums else total
        count += max(map(len, batch.values()), default=0)
    return {layer: total / count for layer, total in sums.items()}


@torch.no_grad()
def mean_norm(module: nn.Module, data: Examples, layer: str) -> float:
    """Returns how long the states of a layer are on average, where `mean_states` reads them.

    Their mean is no measure of that: where states are centred on nothing it is next to nothing.
    """
    norms = [batch[layer].flatten(1).norm(dim=1) for batch in _read(module, data, (layer,))]
    return float(torch.cat(norms).mean())


def _read(module: nn.Module, data: Examples, layers: tuple[str, ...]) -> Iterator[dict[str, Tensor]]:
    """Yields for each batch the states of each layer where labelled tokens are predicted, [predictions, ...]."""
    was = module.training
    module.eval()
    for batch in (batch.to(device_of(module)) for batch in ordered_batches(data.take(slice(0, READ)), 64)):
        chosen = labelled_positions(
            batch, torch.ones(batch.samples, dtype=torch.bool, device=batch.real.device), "loss"
        )
        found = hidden_states(module, batch, layers)
        yield {layer: states[chosen.to(states.device)] for layer, states in found.items()}
    module.train(was)


@torch.no_grad()
def layers_at_work(module: nn.Module, data: Examples, layers: tuple[str, ...]) -> tuple[str, ...]:
    """Returns those of the layers that have states when a module reads, in order, by its first examples.

    A head that is there for training alone has none.

    Raises:
        ValueError: none has.
    """
    was = module.training
    module.eval()
    batch = next(ordered_batches(data, 64)).to(device_of(module))
    found = hidden_states(module, batch, layers)
    module.train(was)
    if not found:
        raise ValueError(f"no hidden layer takes part in a forward pass: {', '.join(layers)}")
    return tuple(layer for layer in layers if layer in found)


def along(states: Tensor, direction: Tensor) -> Tensor:
    """Returns the component of each state along a unit direction, as a multiple of it: (h . r) r.

    Args:
        states: [..., *shape of a state].
        direction: r, of the shape of a state and norm 1.
    """
    dims = tuple(range(-direction.ndim, 0))
    return (states * direction).sum(dim=dims, keepdim=True) * direction


def layer_at(layers: tuple[str, ...], depth: float) -> str:
    """Returns the layer at a share of the depth: 0 is the first, 1 the last."""
    return layers[round(depth * (len(layers) - 1))]


@torch.no_grad()
def shorten(vector: Tensor, most: float) -> None:
    """Projects a vector, in place, onto the ball of a radius."""
    norm = float(vector.norm())
    if norm > most:
        vector.mul_(most / norm)
