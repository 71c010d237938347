"""A classifier from a description of a few numbers and its weights: only our own classes, only sizes that fit."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from redteam.checkpoints.build import Weights, refuse_difference
from redteam.checkpoints.contents import named_as
from redteam.checkpoints.untrusted import KEY
from redteam.errors import InputError
from redteam.registry import ARCHITECTURES

MAX_NUMBERS = 256  # in a description: its length bounds how many modules are built
SLACK = 10_000  # a single number may be this large whatever the weights are
CHECK = "Give the weights and the description that belong together"


def describe(module: nn.Module) -> dict[str, Any]:
    """Returns the description of a module that can be rebuilt from it.

    Raises:
        TypeError: the module is of no architecture of ours.
    """
    description: Any = getattr(module, "description", None)
    name = description.get("name") if isinstance(description, dict) else None
    if name not in ARCHITECTURES.table or type(module) is not ARCHITECTURES.own(str(name)):
        raise TypeError(
            f"a checkpoint holds a model of transformers or of our architectures, not a {type(module).__name__}"
        )
    return dict(description)


def build_architecture(data: Mapping[str, Any], where: str, weights: Weights) -> nn.Module:
    """Builds the module in evaluation mode with float32 weights on the CPU.

    It is laid out without memory first; only if names and shapes are exactly those of the stored weights is it built.

    Args:
        data: a config with the description under `KEY` and nothing else.
        where: it came from, for messages.
        weights: checked, not yet in a module.

    Raises:
        InputError: the description names no architecture of ours, makes no sense, or does not fit the weights.
    """
    description = data[KEY]
    if len(data) > 1 or not isinstance(description, dict) or not isinstance(description.get("name"), str):
        raise InputError(f"{where} does not describe an architecture", f'Write {{"{KEY}": {{"name": ..., ...}}}}')
    _refuse_numbers(description, where, weights.elements)
    with torch.device("meta"):
        empty = _make(description, where)
    source = named_as(empty.state_dict().keys(), weights.tensors_by_name())
    refuse_misfit(empty, source, weights)
    module = _make(description, where)
    module.load_state_dict(dict(source))
    return module.eval()


def _make(description: Mapping[str, Any], where: str) -> nn.Module:
    sizes = {name: value for name, value in description.items() if name != "name"}
    try:
        module: nn.Module = ARCHITECTURES.own(description["name"])(**sizes)
        again = json.loads(json.dumps(describe(module)))
    except InputError as error:
        raise InputError(f"{where}: {error.found}", error.remedy) from error
    except Exception as error:  # every architecture checks its sizes in its own way
        message = " ".join(str(error).split())[:200]
        raise InputError(f"{where}: no {description['name']} can be built ({message})", CHECK) from error
    if again != description:
        raise InputError(f"{where}: a {description['name']} would describe itself in other words", CHECK)
    return module


def _refuse_numbers(description: Mapping[str, Any], where: str, elements: int) -> None:
    """Refuses everything but a few positive numbers, alone or in a list, none far above the number of weights."""
    values: list[Any] = []
    for name, value in description.items():
        if name != "name":
            values += value if isinstance(value, list) else [value]
    if len(values) > MAX_NUMBERS:
        raise InputError(f"{where} describes an architecture by {len(values)} numbers", CHECK)
    for value in values:
        number = type(value) is int or (type(value) is float and math.isfinite(value))
        if not number or value < 0:
            raise InputError(f"{where} describes an architecture by {str(value)[:40]!r}, which is no size", CHECK)
        if value > max(elements, SLACK):
            raise InputError(
                f"{where} describes a size of {str(value)[:40]}, but the file holds {elements} weights", CHECK
            )


def refuse_misfit(
    empty: nn.Module, state: Mapping[str, Tensor], weights: Weights, wanted_by: str = "its config"
) -> None:
    """Refuses tensors that are not those of a module, by name, shape and kind of number.

    Args:
        empty: the module, on any device.
        state: the tensors.
        weights: whose they are, for messages.
        wanted_by: what says how the module is built, for messages.

    Raises:
        InputError: there is a difference; it names the first few.
    """
    wanted = empty.state_dict()
    report = {
        "missing_keys": wanted.keys() - state.keys(),
        "unexpected_keys": state.keys() - wanted.keys(),
        "mismatched_keys": [
            (name, tuple(state[name].shape), tuple(tensor.shape))
            for name, tensor in wanted.items()
            if name in state and state[name].shape != tensor.shape
        ],
    }
    refuse_difference(report, weights.path, wanted_by)
    for name, tensor in wanted.items():
        if state[name].is_floating_point() != tensor.is_floating_point():
            raise InputError(f"{weights.path}: {name} is stored as {state[name].dtype}, not {tensor.dtype}", CHECK)
