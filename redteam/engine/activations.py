"""Hidden states of a module's layers, found by name and read through hooks that always go away."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from redteam.engine.batches import AnyBatch, Batch
from redteam.engine.hooks import hooked
from redteam.errors import InputError


class UnknownLayers(ValueError):
    """It cannot be told which submodules are the decoder layers."""


def decoder_layers(module: nn.Module) -> tuple[str, ...]:
    """Returns the names of the decoder layers in order: the one list as long as the config says.

    Raises:
        UnknownLayers: no list, or several, of that length.
    """
    config: Any = module.config
    depth = int(config.num_hidden_layers)
    found = [n for n, m in module.named_modules() if isinstance(m, nn.ModuleList) and len(m) == depth]
    outermost = [n for n in found if not any(n != other and n.startswith(other + ".") for other in found)]
    if len(outermost) != 1:
        raise UnknownLayers(f"cannot tell the decoder layers apart: {outermost or 'no list of that length'}")
    return tuple(f"{outermost[0]}.{i}" for i in range(depth))


def hidden_layers(module: nn.Module) -> tuple[str, ...]:
    """Returns the names of the layers whose outputs are hidden states, in order.

    Of a language model of transformers its decoder layers; of any other module the innermost submodules that hold
    weights, without the last, whose output is the model's.

    Raises:
        UnknownLayers: they cannot be told.
    """
    if hasattr(getattr(module, "config", None), "num_hidden_layers"):
        return decoder_layers(module)
    names = tuple(n for n, m in module.named_modules() if n and not list(m.children()) and list(m.parameters()))
    if len(names) < 2:
        raise UnknownLayers(f"a {type(module).__name__} has no hidden layer: {', '.join(names) or 'no weights at all'}")
    return names[:-1]


def unknown_layers(module: nn.Module) -> str | None:
    """Returns why the hidden layers of a module cannot be told; None if they can."""
    try:
        hidden_layers(module)
    except UnknownLayers as error:
        return str(error)
    return None


def matching_modules(module: nn.Module, pattern: str) -> tuple[str, ...]:
    """Returns the names of all submodules that match a shell pattern ("model.layers.*.mlp"), in order.

    Raises:
        InputError: none does.
    """
    return _matching([name for name, _ in module.named_modules() if name], pattern, "module")


def matching_parameters(module: nn.Module, pattern: str) -> tuple[str, ...]:
    """Returns the names of all parameters that match a shell pattern ("*.down_proj.weight"), in order.

    Raises:
        InputError: none does.
    """
    return _matching([name for name, _ in module.named_parameters()], pattern, "parameter")


def _matching(names: Sequence[str], pattern: str, what: str) -> tuple[str, ...]:
    found = tuple(name for name in names if fnmatchcase(name, pattern))
    if not found:
        shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        raise InputError(f"no {what} matches {pattern!r}", f"Names are like {shown}; * stands for anything")
    return found


def run(module: nn.Module, batch: AnyBatch) -> None:
    """Runs the module for what its layers put out: of a language model the head is asked for one position alone."""
    if isinstance(batch, Batch):
        batch.logits(module, torch.zeros(1, dtype=torch.long))
    else:
        batch.logits(module)


def hidden_states(module: nn.Module, batch: AnyBatch, names: tuple[str, ...]) -> dict[str, Tensor]:
    """Runs the module and returns the outputs of the named submodules, in the graph: `batch.real` says what counts.

    Of a language model [sequences, length, hidden], of a classifier [samples, ...].
    """
    with captured(module, names) as states:
        run(module, batch)
    return states


@contextmanager
def captured(module: nn.Module, names: tuple[str, ...]) -> Iterator[dict[str, Tensor]]:
    """While open, every forward pass leaves the outputs of the named submodules in the yielded dictionary.

    Tensors are kept in the graph, [sequences, length, hidden].

    Raises:
        AttributeError: there is no submodule of a name.
    """
    states: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            first = output[0] if isinstance(output, tuple) else output
            if isinstance(first, Tensor):
                states[name] = first

        return hook

    with hooked(module, {name: keep(name) for name in names}):
        yield states
