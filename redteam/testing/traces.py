"""What an attack leaves behind: in the model, in the data, and in the process."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from redteam.attacks.contract import Attack
from redteam.capabilities.scorers.contract import NotFinite
from redteam.engine.cost import Ledger
from redteam.engine.parts import hook_kinds, hooks_of
from redteam.engine.snapshot import TENSOR_HOOKS, StructureChanged
from redteam.setting import Setting
from redteam.testing.exercise import FOLLOWED, Exercise, follow, worlds
from redteam.testing.promise import BrokenPromise
from redteam.testing.worlds import open_world
from redteam.trial import TrialSpec, open_arena

CLOSED_AFTER = (0, 1, 2, 3, FOLLOWED)  # steps
DATA = ("answers", "texts", "retain")


def leaves_nothing_behind(attack: Attack, exercise: Exercise | None = None) -> None:
    """Closed after any step, it leaves no hook, no gradient, no frozen parameter and no method of its own."""
    for setting, steps, how in _closings(attack, exercise):
        follow(attack, setting, how, steps=steps)
        for trace in traces_on(setting.target.module):
            raise BrokenPromise(
                f"closed after {_counted(steps)} it leaves {trace}",
                "Take it down in a `finally`; hooks through which it works, enter into `arena.in_place`",
            )


def can_be_undone(attack: Attack, exercise: Exercise | None = None) -> None:
    """Closed after any step, the released model can be had back from it, bit for bit, and says what it said."""
    for setting, steps, how in _closings(attack, exercise):
        follow(attack, setting, how, steps=steps)
        module = setting.target.module
        try:
            setting.released.restore(module)
            said = setting.choices["select"].table(module)
        except (StructureChanged, NotFinite) as error:
            raise BrokenPromise(
                f"closed after {_counted(steps)} it cannot be undone: {error}",
                "Take down in a `finally` what it puts up, and put back what it replaces",
            ) from error
        if not torch.equal(said, setting.says):
            raise BrokenPromise(
                f"closed after {_counted(steps)} the released weights say something else than before",
                "Replace nothing outside of the module: no class, no function of torch",
            )


def writes_to_no_data(attack: Attack, exercise: Exercise | None = None) -> None:
    """The examples in its arena are the same when it has run: what must stay is one set for all trials."""
    for setting, how in worlds(attack, exercise):
        used = follow(attack, setting, how).arena
        spec = TrialSpec(key="test", attack="test", params={}, seed=how.seed)
        fresh = open_arena(open_world(setting.target.info.kind), spec, Ledger(parameters=1))
        for name in DATA:
            if not _same(getattr(used, name), getattr(fresh, name)):
                raise BrokenPromise(f"it writes to `arena.{name}`", "Clone a tensor before you change it")


def leaves_the_process_alone(attack: Attack, exercise: Exercise | None = None) -> None:
    """It draws no random numbers of Python and NumPy, and leaves torch's defaults and the working directory."""
    for setting, how in worlds(attack, exercise):
        for name in follow(attack, setting, how).touched:
            raise BrokenPromise(
                f"it changes {name}",
                "Draw from `redteam.engine.seeding.seeded(arena.seed, ...)`, and put back what it has to change",
            )


def _closings(attack: Attack, exercise: Exercise | None) -> Iterator[tuple[Setting, int, Exercise]]:
    for setting, how in worlds(attack, exercise):
        for steps in CLOSED_AFTER:
            yield open_world(setting.target.info.kind), steps, how


def traces_on(module: nn.Module) -> Iterator[str]:
    """Yields what is not on a module that nobody has touched, as a person would say it."""
    for name, part in module.named_modules():
        place = name or "the module"
        if "forward" in vars(part):
            yield f"a forward method on {place}"
        registered = (hook for held in hooks_of(part, hook_kinds(part)).values() for hook in held.values())
        yield from (f"a hook on {place}" for hook in registered if not _of_transformers(hook))
    for name, parameter in module.named_parameters():
        if any(hooks_of(parameter, TENSOR_HOOKS).values()):
            yield f"a hook on {name}"
        if parameter.grad is not None:
            yield f"a gradient on {name}"
        if not parameter.requires_grad:
            yield f"{name} without `requires_grad`"


def _of_transformers(hook: Any) -> bool:
    """Returns whether it is one that transformers installs once, when hidden states are first asked for."""
    return str(getattr(hook, "__module__", "")).startswith("transformers.")


def _same(left: Any, right: Any) -> bool:
    pairs = ((getattr(left, field.name), getattr(right, field.name)) for field in dataclasses.fields(right))
    return all(torch.equal(one, other) for one, other in pairs)


def _counted(steps: int) -> str:
    return f"{steps} step{'s' if steps != 1 else ''}"
