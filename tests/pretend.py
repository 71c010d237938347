"""A second device, without hardware: tensors that say they are elsewhere, computed by the CPU.

Operations on tensors of two devices raise, as they do on an accelerator, and so does `numpy()`. What is computed is
what the CPU computes, so that a run here must give the numbers of a run there.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map_only
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "pretend"
# What an accelerator also takes of two devices: copies, and indices that lie on the CPU.
MIXES = {"_to_copy", "copy_", "index", "index_put", "index_put_", "_index_put_impl_"}


class Elsewhere(Tensor):
    """A tensor on a pretended device.

    Attributes:
        held: the same on the CPU.
    """

    held: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: Tensor, place: torch.device) -> Elsewhere:
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=place,
        )
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(operation, args, kwargs or {})

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        """A copy on the same device: torch's own asks for a storage, which nothing here has."""
        made: Tensor = Elsewhere(self.held.clone(), self.device)
        made = nn.Parameter(made, self.requires_grad) if isinstance(self, nn.Parameter) else made
        memo[id(self)] = made
        return made

    def data_ptr(self) -> int:
        """Where it begins, as that of any tensor."""
        return self.held.data_ptr()

    def tolist(self) -> Any:
        """As that of any tensor: torch refuses it to subclasses alone."""
        return self.cpu().tolist()

    def __repr__(self) -> str:  # type: ignore[override]
        return f"elsewhere({self.held!r}, {self.device})"


def computed(operation: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Runs an operation on what the tensors hold; what comes out lies where they do, or where it was asked for."""
    tensors = [part for part in tree_flatten((args, kwargs))[0] if isinstance(part, Tensor)]
    places = {part.device for part in tensors if part.dim() or part.device.type == NAME}
    name = operation._schema.name.removeprefix("aten::")
    if len(places) > 1 and name not in MIXES:
        found = ", ".join(sorted(map(str, places)))
        raise RuntimeError(f"Expected all tensors to be on the same device, but {name} got some on {found}")
    asked = kwargs.get("device")
    if asked is not None:
        kwargs = kwargs | {"device": torch.device("cpu")}
    given = tree_map_only(Elsewhere, lambda part: part.held, (args, kwargs))
    found = operation(*given[0], **given[1])
    if name == "copy_":
        return args[0]
    place = (
        torch.device(asked) if asked is not None else next((t.device for t in tensors if t.device.type == NAME), None)
    )
    if place is None or place.type != NAME:
        return found
    place = place if place.index is not None else torch.device(NAME, 0)
    same = {id(part.held): part for part in tensors if isinstance(part, Elsewhere)}
    return tree_map_only(Tensor, lambda part: same[id(part)] if id(part) in same else Elsewhere(part, place), found)


def set_up() -> None:
    """Makes the device known to torch; once in a process."""
    _setup_privateuseone_for_python_backend(NAME, backend_module=_Devices())
    _ALL.fallback(lambda operation, *args, **kwargs: computed(operation, args, kwargs), "PrivateUse1")
    for name in SIZED:
        operation, _, overload = name.partition(".")
        kernel = getattr(getattr(torch.ops.aten, operation), overload or "default")
        _ATEN.impl(name, partial(_made, kernel), "PrivateUse1")


class _Devices:
    """What torch asks of a kind of device."""

    def is_available(self) -> bool:
        return True

    def is_initialized(self) -> bool:
        return True

    def device_count(self) -> int:
        return 1

    def current_device(self) -> int:
        return 0

    def _is_in_bad_fork(self) -> bool:
        return False

    def manual_seed_all(self, seed: int) -> None:
        """Draws come from the CPU's generator."""


def _made(kernel: Any, *args: Any, **kwargs: Any) -> Tensor:
    """Makes a tensor of a size that only the CPU's kernel knows: torch would make an empty one and have it grow."""
    return computed(kernel, args, kwargs)  # type: ignore[no-any-return]


SIZED = ("arange", "arange.start", "arange.start_step", "eye", "eye.m", "randperm", "randperm.generator", "linspace")
_ALL, _ATEN = torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL")
