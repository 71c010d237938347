"""Applies a method: checks what it is given, meters what it costs, and lets no broken weights out."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from redteam.engine.batches import Examples, TokenSet
from redteam.engine.cost import Meter
from redteam.engine.loop import Diverged
from redteam.errors import InputError
from redteam.record import Cost
from redteam.unlearning.contract import Method, UnlearningTask
from redteam.unlearning.stages import FollowUp


class MethodFailed(InputError):
    """A method did not end in a model: its loss or its weights stopped being finite, or it found nothing to do."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Unlearned:
    """A model after unlearning.

    Attributes:
        module: in evaluation mode.
        costs: of the method, and of the stage after it if there was one.
    """

    module: nn.Module
    costs: Mapping[str, Cost]


def apply_method(
    method: Method, task: UnlearningTask, *, then: FollowUp | None = None, then_data: Examples | None = None
) -> Unlearned:
    """Applies a method and, if asked for, the stage after it. The original's weights stay bit-identical.

    Where nothing of the forget set is labelled, a post hoc method has nothing to work on: the outcome is a copy of
    the original.

    Raises:
        InputError: the method does not fit the model, or its loss or its weights stopped being finite.
    """
    kind = kind_of(task.retain)
    if kind not in method.kinds:
        raise InputError(f"{method.name} works on: {method.kinds}; this model is a {kind} one", "Use another method")
    if not any(parameter.requires_grad for parameter in task.original.parameters()):
        raise InputError("no weight of the model may move", "Call model.requires_grad_(True)")
    broken = _not_finite(task.original)
    if broken is not None:
        raise InputError(f"the original has weights that are not finite ({broken})", "Give a sound model")
    costs = {}
    with Meter() as meter:
        if len(task.forget) == 0 and method.when != "training":
            module = copy.deepcopy(task.original)
        else:
            module = _guarded(method.name, partial(method.apply, task), task.seed)
            if method.when == "post hoc" and same_weights(module, task.original):
                raise MethodFailed(f"{method.name} changed no weight", "Check its options, or what they name")
    costs["method"] = meter.cost
    if then is not None:
        data = task.retain if then_data is None else then_data
        with Meter() as meter:
            follow = partial(then.apply, module, data, seed=task.seed, progress=task.progress)
            module = _guarded("the stage after it", follow, task.seed)
        costs["then"] = meter.cost
    return Unlearned(module=module, costs=costs)


def kind_of(data: Examples) -> str:
    """Returns "language" or "classifier": what a model of such data is."""
    return "language" if isinstance(data, TokenSet) else "classifier"


def _guarded(what: str, work: Callable[[], nn.Module], seed: int) -> nn.Module:
    """Returns what the work returns. Deterministic for a seed, and torch's global generator stays as it was."""
    try:
        with torch.random.fork_rng(devices=()):  # dropout draws from the global generator
            torch.manual_seed(seed)
            module = work()
    except Diverged as error:
        raise MethodFailed(f"{what} diverged: {error}", "Lower its learning rate or its number of steps") from error
    except InputError as error:
        raise MethodFailed(error.found, error.remedy) from error
    bad = _not_finite(module)
    if bad is not None:
        raise MethodFailed(
            f"{what} left weights that are not finite ({bad})", "Lower its learning rate or its number of steps"
        )
    return module


def same_weights(module: nn.Module, other: nn.Module) -> bool:
    """Returns whether two modules have the same parameters and buffers, bit for bit."""
    stored, others = dict(_stored(module)), dict(_stored(other))
    return stored.keys() == others.keys() and all(torch.equal(tensor, others[name]) for name, tensor in stored.items())


def _not_finite(module: nn.Module) -> str | None:
    """Returns the name of a parameter or buffer that holds an infinity or a NaN, if there is one."""
    return next((name for name, tensor in _stored(module) if not bool(torch.isfinite(tensor).all())), None)


def _stored(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    return itertools.chain(module.named_parameters(), module.named_buffers())
