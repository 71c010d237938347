"""Hidden states of a module's decoder layers, found by name and read through hooks that always go away."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


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


@contextmanager
def captured(module: nn.Module, names: tuple[str, ...]) -> Iterator[dict[str, Tensor]]:
    """While open, every forward pass leaves the outputs of the named submodules in the yielded dictionary.

    Tensors are kept in the graph, [sequences, length, hidden]. The hooks are removed on the way out, whatever happens.

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

    layers = {name: module.get_submodule(name) for name in names}  # raises before the first hook is there
    handles = [layer.register_forward_hook(keep(name)) for name, layer in layers.items()]
    try:
        yield states
    finally:
        for handle in handles:
            handle.remove()
