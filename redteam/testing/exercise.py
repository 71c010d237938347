"""An attack at work in a tiny world, started and closed as a trial does it."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import islice

import torch

from redteam.attacks.contract import Arena, Attack, Params, step_limit, unfitness
from redteam.engine.cost import Ledger, Spent
from redteam.engine.deadline import AttackHung, closed_within, steps_within, within
from redteam.engine.loop import Diverged
from redteam.engine.seeding import derive_seed
from redteam.engine.surroundings import surroundings_kept
from redteam.setting import Setting
from redteam.testing.promise import BrokenPromise, answer
from redteam.testing.worlds import KINDS, open_world
from redteam.trial import TrialSpec, open_arena

FOLLOWED = 8  # steps that most promises look at
PATIENCE = 60.0  # seconds; a step on a few thousand weights takes milliseconds


@dataclass(frozen=True, kw_only=True, slots=True)
class Exercise:
    """How an attack is exercised.

    Attributes:
        params: by default the first of its recipes.
        kinds: of models, of which those are taken that the attack says it works on.
        seed: of the trials.
        control: whether it is to change nothing, as `noop`.
    """

    params: Params | None = None
    kinds: Sequence[str] = KINDS
    seed: int = 0
    control: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Course:
    """What an attack did, as far as it was followed.

    Attributes:
        arena: what it worked in; what it put in place is taken down by now.
        spent: what it yielded.
        ended: whether it came to its end by itself, before it was closed.
        touched: what of the process it left changed; it is put back by now.
    """

    arena: Arena
    spent: tuple[Spent, ...]
    ended: bool
    touched: tuple[str, ...]


def worlds(attack: Attack, exercise: Exercise | None) -> Iterator[tuple[Setting, Exercise]]:
    """Yields a new setting for each kind of model that the attack works on, and how it is exercised there.

    Raises:
        BrokenPromise: it works on none, or cannot say how it is exercised.
    """
    exercise = exercise or Exercise()
    kinds = [kind for kind in KINDS if kind in exercise.kinds and kind in getattr(attack, "kinds", kind)]
    if not kinds:
        raise BrokenPromise(
            f"it is exercised on {', '.join(exercise.kinds)} and says that it works on {getattr(attack, 'kinds', '')}",
            f"Let `kinds` name {' or '.join(KINDS)}",
        )
    for kind in kinds:
        setting = open_world(kind)
        why = answer("unfit", unfitness, attack, setting.target.module)
        if why:
            raise BrokenPromise(f"on {setting.target.name} it is unfit: {why}", f"Leave {kind} out of `kinds`")
        yield setting, exercise


def parameters(attack: Attack, setting: Setting, exercise: Exercise) -> Params:
    """Returns the parameters that an attack is exercised with.

    Raises:
        BrokenPromise: none are given and it has no recipe.
    """
    if exercise.params is not None:
        return exercise.params
    recipes = answer("recipes", attack.recipes, setting.target.info, len(setting.answers))
    if not recipes:
        raise BrokenPromise("recipes returns none", "Return one known-good setting at least")
    return recipes[0]


def follow(
    attack: Attack,
    setting: Setting,
    exercise: Exercise,
    *,
    params: Params | None = None,
    steps: int = FOLLOWED,
    each: Callable[[Arena], object] = lambda arena: None,
) -> Course:
    """Runs an attack for some steps and closes it. The module stays as it is then.

    Args:
        attack: runs.
        setting: where.
        exercise: how.
        params: instead of those of the exercise.
        steps: after which it is closed.
        each: called after each of them, while the attack is in place.

    Raises:
        BrokenPromise: it raised or hung.
    """
    chosen = parameters(attack, setting, exercise) if params is None else params
    ledger = Ledger(parameters=setting.target.info.parameters)
    arena = open_arena(setting, TrialSpec(key="test", attack="test", params=chosen, seed=exercise.seed), ledger)
    setting.target.module.eval()  # as the harness does
    spent: list[Spent] = []
    with surroundings_kept() as changed:
        with _blamed(setting.target.name), _running(attack, arena, chosen) as running:
            for now in islice(running, steps):
                spent.append(now)
                each(arena)
        touched = tuple(changed())
    return Course(arena=arena, spent=tuple(spent), ended=len(spent) < steps, touched=touched)


@contextmanager
def _running(attack: Attack, arena: Arena, params: Params) -> Iterator[Iterator[Spent]]:
    limit = min(step_limit(attack), PATIENCE)
    torch.manual_seed(derive_seed(arena.seed, "global"))
    with closed_within(limit, arena.in_place.close):
        running = within(limit, lambda: attack.run(arena, params))
        with closed_within(limit, running.close) if isinstance(running, Generator) else nullcontext():
            yield steps_within(limit, running)


@contextmanager
def _blamed(where: str) -> Iterator[None]:
    """Turns what an attack raises into a broken promise."""
    try:
        yield
    except (BrokenPromise, KeyboardInterrupt):
        raise
    except Diverged as error:
        raise BrokenPromise(f"on {where} it diverged: {error}", "Give `params` with which it does not") from error
    except AttackHung as error:
        raise BrokenPromise(f"on {where} it hung: {error}", "Yield after every step, and close at once") from error
    except BaseException as error:
        raise BrokenPromise(f"on {where} it raised {type(error).__name__}: {error}", "Correct it") from error
