"""The released weights, kept aside so that every trial starts from exactly them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from redteam.engine.parts import Hooks, Part, hooks_of, put_back


class StructureChanged(RuntimeError):
    """A module has other parameters, buffers or submodules than its snapshot, so it cannot be restored."""


TENSOR_HOOKS = ("_backward_hooks", "_post_accumulate_grad_hooks")
NAMED = 4  # of what was changed; more would fill a line that is to be read


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Copies of a module's parameters and buffers, what else is known of them, which hooks there are, its submodules.

    Copying back in memory is far cheaper than loading the file again, and it is checked: `restore` compares every
    array afterwards. What lies outside the module, a class or a function of torch that was replaced, is not seen.

    Attributes:
        arrays: copies of parameters and buffers, by name, in the processor's memory.
        forms: dtype, shape and place of each.
        trainable: names of the parameters that get a gradient.
        shared: names of the arrays that begin at the same place in memory as another.
        hooks: on parameters, by name.
        parts: the submodules, by name.
    """

    arrays: Mapping[str, Tensor]
    forms: Mapping[str, str]
    trainable: frozenset[str]
    shared: frozenset[str]
    hooks: Mapping[str, Hooks]
    parts: Mapping[str, Part]

    @staticmethod
    def of(module: nn.Module) -> Snapshot:
        """Copies the module's parameters and buffers."""
        live = dict(_arrays(module))
        trainable = frozenset(name for name, p in module.named_parameters() if p.requires_grad)
        parts = {name: Part.of(part) for name, part in module.named_modules(remove_duplicate=False)}
        return Snapshot(
            arrays={name: tensor.detach().to("cpu", copy=True) for name, tensor in live.items()},
            forms={name: _form(tensor) for name, tensor in live.items()},
            trainable=trainable,
            shared=_shared(live),
            hooks={name: hooks_of(parameter, TENSOR_HOOKS) for name, parameter in module.named_parameters()},
            parts=parts,
        )

    @torch.no_grad()
    def restore(self, module: nn.Module) -> None:
        """Copies the arrays back, in place, and puts the module in evaluation mode.

        Hooks on submodules and on parameters are afterwards those there were. Forward methods of single instances go,
        and numbers that submodules hold, as a dropout rate, are put back.

        Raises:
            StructureChanged: the module's arrays and submodules are not those of the snapshot: an attack left
                something behind; or they cannot be restored bit for bit.
        """
        live = self._live(module)
        for part in self.parts.values():
            part.restore()
        for name, tensor in live.items():
            _copy(name, tensor, self.arrays[name])
        for name, parameter in module.named_parameters():
            put_back(parameter, self.hooks[name])
            parameter.requires_grad_(name in self.trainable)
            parameter.grad = None
        module.eval()
        differing = [name for name, tensor in live.items() if not torch.equal(tensor, self._released(name, tensor))]
        if differing:
            raise StructureChanged(
                f"restored weights differ from the snapshot in {', '.join(differing[:NAMED])}: "
                "they hold NaN, or share memory with others"
            )

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
            moved += int((parameter != self._released(name, parameter)).sum())
            total += parameter.numel()
        return moved / total

    def _released(self, name: str, live: Tensor) -> Tensor:
        """Returns what an array was, where it is now."""
        return self.arrays[name].to(live.device)

    def _live(self, module: nn.Module) -> dict[str, Tensor]:
        live = dict(_arrays(module))
        changed = [*_renamed(self.arrays, live), *_reshaped(self.forms, live)]
        changed += [f"{name} shares its memory" for name in sorted(_shared(live) - self.shared)]
        if not changed:  # a new parameter mostly comes with a new submodule: one of them is enough to say
            parts = dict(module.named_modules(remove_duplicate=False))
            changed = [*_renamed(self.parts, parts), *_replaced(self.parts, parts)]
        if changed:
            raise StructureChanged(f"an attack changed the module's structure: {', '.join(changed[:NAMED])}")
        return live


def _arrays(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters()
    yield from module.named_buffers()


def _renamed(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """Yields what is there and was not, then what was there and is not."""
    yield from (f"{name} is new" for name in sorted(now.keys() - before.keys()))
    yield from (f"{name} is gone" for name in sorted(before.keys() - now.keys()))


def _reshaped(before: Mapping[str, str], now: Mapping[str, Tensor]) -> Iterator[str]:
    for name, tensor in now.items():
        if name in before and _form(tensor) != before[name]:
            yield f"{name} is {_form(tensor)}"


def _form(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)} on {tensor.device}"


def _shared(arrays: Mapping[str, Tensor]) -> frozenset[str]:
    """Returns the arrays that begin where another does: what is written to one is written to the other."""
    places = Counter(tensor.data_ptr() for tensor in arrays.values() if tensor.numel())
    return frozenset(name for name, tensor in arrays.items() if tensor.numel() and places[tensor.data_ptr()] > 1)


def _replaced(before: Mapping[str, Part], now: Mapping[str, nn.Module]) -> Iterator[str]:
    for name, part in now.items():
        if name in before and (before[name].module is not part or before[name].kind is not type(part)):
            yield f"{name or 'the module'} is another {type(part).__name__}"


def _copy(name: str, tensor: Tensor, released: Tensor) -> None:
    try:
        tensor.copy_(released)
    except RuntimeError as error:  # its entries share memory with each other
        raise StructureChanged(f"an attack changed the module's structure: {name} takes no values ({error})") from error
