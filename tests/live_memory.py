"""Bytes of tensors that live at the same time, counted operation by operation; what torch itself keeps is not."""

from __future__ import annotations

import weakref
from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


class LiveMemory(TorchDispatchMode):
    """While open, counts what is allocated.

    Attributes:
        live: bytes now.
        peak: the most bytes at any time.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: dict[int, weakref.ref[Any]] = {}
        for parameter in module.parameters():
            self._count(parameter)

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        place, size = storage._cdata, storage.nbytes()
        if place in self._known:
            return

        def gone(_reference: Any) -> None:
            del self._known[place]
            self.live -= size

        self._known[place] = weakref.ref(storage, gone)
        self.live += size
        self.peak = max(self.peak, self.live)

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = operation(*args, **(kwargs or {}))
        for part in tree_iter(found):
            if isinstance(part, Tensor):
                self._count(part)
        return found
