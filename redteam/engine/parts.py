"""What a submodule is beside its arrays: its class, its hooks, and the functions and numbers that it holds itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

Hooks = dict[str, dict[int, Any]]  # kind -> id -> hook
PLAIN = (bool, int, float, str)
# Transformers hooks a model once, when hidden states are first asked for, and notes that it did. Where those hooks are
# removed, the note must go too, or no hidden states are returned ever after.
INSTALLED = "_output_capturing_hooks_installed"


@dataclass(frozen=True, slots=True)
class Part:
    """A submodule: which object it is, of which class, and what it holds beside its arrays.

    Attributes:
        module: itself.
        kind: its class.
        names: of all that its instance dictionary holds.
        own: the numbers, texts and functions among that: a forward method of its own, a dropout rate.
        hooks: that are on it.
    """

    module: nn.Module
    kind: type[nn.Module]
    names: frozenset[str]
    own: Mapping[str, Any]
    hooks: Hooks

    @staticmethod
    def of(module: nn.Module) -> Part:
        """Notes what a submodule is now."""
        return Part(module, type(module), frozenset(vars(module)), _own(module), hooks_of(module, hook_kinds(module)))

    def restore(self) -> None:
        """Puts hooks, numbers, texts and functions back, and takes away functions that hide those of the class."""
        held = vars(self.module)
        if INSTALLED not in self.names:
            held.pop(INSTALLED, None)
        for name in [name for name in _own(self.module) if name not in self.names and hasattr(self.kind, name)]:
            if callable(held[name]):
                del held[name]
        held.update(self.own)
        put_back(self.module, self.hooks)


def hook_kinds(module: nn.Module) -> list[str]:
    """Returns the names of all that a module keeps hooks in, and of what it notes about them."""
    return [name for name, held in vars(module).items() if "_hooks" in name and isinstance(held, dict)]


def hooks_of(owner: nn.Module | Tensor, kinds: Iterable[str]) -> Hooks:
    """Returns the hooks of some kinds that a module or a parameter has."""
    return {kind: dict(getattr(owner, kind, None) or {}) for kind in kinds}


def put_back(owner: nn.Module | Tensor, hooks: Hooks) -> None:
    """Makes the hooks of a module or a parameter those that `hooks_of` returned; those of other kinds stay."""
    for kind, held in hooks.items():
        registered: dict[int, Any] | None = getattr(owner, kind, None)
        if registered is not None:  # of a parameter that never had one
            registered.clear()
            registered.update(held)


def _own(module: nn.Module) -> dict[str, Any]:
    """Returns the numbers, texts and functions in a module's instance dictionary, but for its mode."""
    return {
        name: value
        for name, value in vars(module).items()
        if name != "training" and (value is None or isinstance(value, PLAIN) or callable(value))
    }
