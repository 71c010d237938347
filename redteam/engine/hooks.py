"""Hooks on submodules by name, which always go away."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn

Hook = Callable[..., Any]


@contextmanager
def hooked(module: nn.Module, hooks: Mapping[str, Hook], *, before: bool = False) -> Iterator[None]:
    """While open, each named submodule calls its hook at every forward pass. The hooks are removed, whatever happens.

    A hook on a single module needs no name: `with module.register_forward_hook(hook)` removes it as well.

    Args:
        module: whose submodules these are.
        hooks: name of a submodule -> its hook, as torch calls it. They are registered in this order.
        before: call them before the forward pass with its inputs, not after it with its output.

    Raises:
        AttributeError: there is no submodule of a name; no hook is registered then.
    """
    parts = {name: module.get_submodule(name) for name in hooks}
    with ExitStack() as handles:
        for name, part in parts.items():
            register = part.register_forward_pre_hook if before else part.register_forward_hook
            handles.enter_context(register(hooks[name]))
        yield
