"""Whether an attack runs, on what it says, to its end, and to some effect."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing, nullcontext
from itertools import islice
from typing import Any

import torch

from redteam.attacks.contract import Access, Arena, Attack, Params, step_limit
from redteam.engine.cost import Spent
from redteam.engine.loop import Diverged
from redteam.engine.snapshot import StructureChanged
from redteam.setting import Setting
from redteam.testing.exercise import FOLLOWED, Exercise, follow, parameters, worlds
from redteam.testing.promise import BrokenPromise, answer
from redteam.testing.space import drawn_from
from redteam.testing.worlds import open_world
from redteam.trial import TrialSpec, run_trial

MOST = 4096  # steps after which an attack on a few thousand weights is taken to have no end
PROPOSED = 4  # settings of the space that are tried


def runs(attack: Attack, exercise: Exercise | None = None) -> None:
    """On every kind of model that it says it works on, it makes a step at least and raises nothing."""
    for setting, how in worlds(attack, exercise):
        course = follow(attack, setting, how)
        if not course.spent:
            raise BrokenPromise(f"on {setting.target.name} it yields no step", "Yield after each step what was spent")
        for now in course.spent:
            if not isinstance(now, Spent):
                raise BrokenPromise(
                    f"it yields a {type(now).__name__}", "Yield what `arena.fine_tune` or `arena.ledger` return"
                )


def runs_what_it_proposes(attack: Attack, exercise: Exercise | None = None) -> None:
    """Every recipe, and settings that its space proposes by chance, make their first steps and raise nothing."""
    for setting, how in worlds(attack, exercise):
        target, samples = setting.target.info, len(setting.answers)
        recipes = answer("recipes", attack.recipes, target, samples)
        drawn = [drawn_from(attack, target, samples, seed)[0] for seed in range(PROPOSED)]
        for params in (*recipes, *drawn):
            try:
                follow(attack, open_world(target.kind), how, params=params, steps=2)
            except BrokenPromise as error:
                if not isinstance(error.__cause__, Diverged):  # a rate may be too high: the search finds out
                    raise BrokenPromise(f"with {dict(params)}: {error.found}", error.remedy) from error


def ends(attack: Attack, exercise: Exercise | None = None) -> None:
    """It comes to its end by itself."""
    for setting, how in worlds(attack, exercise):
        if not follow(attack, setting, how, steps=MOST).ended:
            raise BrokenPromise(f"it has not ended after {MOST} steps", "Let its parameters say how many it makes")


def acts(attack: Attack, exercise: Exercise | None = None) -> None:
    """It changes weights, or what the model says; a control changes neither."""
    for setting, how in worlds(attack, exercise):
        spec = TrialSpec(key="test", attack="test", params=parameters(attack, setting, how), seed=how.seed)
        try:
            result = run_trial(setting, _Begun(attack), spec)
        except StructureChanged:  # it acts, and breaks another promise
            continue
        moved = result.share_moved > 0 or result.outputs_moved > 0
        if result.error is not None and not moved:
            raise BrokenPromise(f"on {setting.target.name} its trial fails: {result.error}", "Correct it")
        if not moved and not how.control:
            raise BrokenPromise(
                f"on {setting.target.name} it changes no weight and nothing that the model says",
                "Give `params` that change something, or say that it is a control",
            )
        if moved and how.control:
            raise BrokenPromise(f"it is a control and changes {setting.target.name}", "Let a control change nothing")


def keeps_to_its_access(attack: Attack, exercise: Exercise | None = None) -> None:
    """One that does not ask for access to weights changes none, at no step; with text alone nothing in the model."""
    access = getattr(attack, "access", Access.WEIGHTS)
    if access == Access.WEIGHTS:
        return
    for setting, how in worlds(attack, exercise):
        moved: list[float] = []
        said: list[bool] = []

        def compare(arena: Arena, setting: Setting = setting, moved: Any = moved, said: Any = said) -> None:
            moved.append(setting.released.share_moved(arena.module))
            arena.module.eval()
            said.append(torch.equal(setting.choices["select"].table(arena.module), setting.says))

        follow(attack, setting, how, each=compare)
        if any(moved):
            raise BrokenPromise(f"it asks for access to {access} and changes weights", "Ask for Access.WEIGHTS")
        if access == Access.TEXT and not all(said):
            raise BrokenPromise(
                "it asks for access to text and changes what the model says of the same text",
                "Ask for Access.EMBEDDINGS or more, or change `arena.wording.rewrite` alone",
            )


class _Begun:
    """An attack that is closed after its first steps: a trial of one that never ends would not end."""

    def __init__(self, attack: Attack) -> None:
        self._attack, self.step_limit, self.version = attack, step_limit(attack), 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._attack, name)

    def run(self, arena: Arena, params: Params) -> Iterator[Spent]:
        running = self._attack.run(arena, params)
        with closing(running) if isinstance(running, Generator) else nullcontext():
            yield from islice(running, FOLLOWED)
