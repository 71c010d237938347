"""The released weights, kept aside so that every trial starts from exactly them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


class StructureChanged(RuntimeError):
    """A module has other parameters or buffers than its snapshot, so it cannot be restored."""


Hook = tuple[str, str, int]  # submodule, kind, id
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Copies of a module's parameters and buffers, which of them train, and which hooks there are.

    Copying back in memory is far cheaper than loading the file again, and it is checked: `restore` compares every
    array afterwards.
    """

    arrays: Mapping[str, Tensor]
    trainable: frozenset[str]
    hooks: frozenset[Hook]

    @staticmethod
    def of(module: nn.Module) -> Snapshot:
        """Copies the module's parameters and buffers."""
        arrays = {name: tensor.detach().clone() for name, tensor in _arrays(module)}
        trainable = frozenset(name for name, p in module.named_parameters() if p.requires_grad)
        return Snapshot(arrays, trainable, frozenset(hook for hook, _ in _hooks(module)))

    @torch.no_grad()
    def restore(self, module: nn.Module) -> None:
        """Copies the arrays back, in place, removes new hooks, and puts the module in evaluation mode.

        Raises:
            StructureChanged: the module's arrays are not those of the snapshot: an attack left something behind.
            RuntimeError: the weights cannot be restored bit for bit.
        """
        live = self._live(module)
        for hook, registered in list(_hooks(module)):
            if hook not in self.hooks:
                del registered[hook[2]]
                _forget_installed(module.get_submodule(hook[0]))
        for name, tensor in live.items():
            tensor.copy_(self.arrays[name])
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(name in self.trainable)
            parameter.grad = None
        module.eval()
        if not all(torch.equal(tensor, self.arrays[name]) for name, tensor in live.items()):
            raise RuntimeError("restored weights differ from the snapshot; do they hold NaN?")

    @torch.no_grad()
    def share_moved(self, module: nn.Module) -> float:
        """Returns the share of parameter entries that differ from the snapshot, in [0, 1].

        An update smaller than the precision of a weight leaves it unchanged, so an inert attack shows here.

        Raises:
            StructureChanged: as `restore`.
        """
        self._live(module)
        moved = total = 0
        for name, parameter in module.named_parameters():
            moved += int((parameter != self.arrays[name]).sum())
            total += parameter.numel()
        return moved / total

    def _live(self, module: nn.Module) -> dict[str, Tensor]:
        live = dict(_arrays(module))
        if live.keys() != self.arrays.keys():
            changed = sorted(live.keys() ^ self.arrays.keys())
            raise StructureChanged(f"an attack changed the module's structure: {', '.join(changed[:4])}")
        return live


def _arrays(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters()
    yield from module.named_buffers()


def _hooks(module: nn.Module) -> Iterator[tuple[Hook, dict[int, Any]]]:
    for name, part in module.named_modules():
        for kind in HOOKS:
            registered: dict[int, Any] = getattr(part, kind)
            for number in registered:
                yield (name, kind, number), registered


def _forget_installed(part: nn.Module) -> None:
    """Transformers hooks a model once, when hidden states are first asked for, and notes that it did.

    Where those hooks are removed, the note must go too, or no hidden states are returned ever after.
    """
    part.__dict__.pop("_output_capturing_hooks_installed", None)
