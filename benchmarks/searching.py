"""Searches of one target by themselves: the suite's own search and confirmation, without reference and decoy.

One that was interrupted goes on where it stopped. Remove `results/runs/benchmarks` to measure anew.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from redteam.config.request import RunRequest
from redteam.evidence.directory import MANIFEST, RunDirectory, environment
from redteam.evidence.events import TrialEvent
from redteam.evidence.evidence import read_evidence
from redteam.evidence.results import params_of
from redteam.judging.recovery import strongest_stop
from redteam.search.plan import SearchPlan, plan_search
from redteam.search.selection import SEEDS, Candidate, contended, outcome_of
from redteam.setting import Setting, open_setting
from redteam.suite.arm import Arm
from redteam.suite.inputs import Inputs, resolve_one
from redteam.suite.memo import Memo
from redteam.suite.progress import Silent
from redteam.suite.run import Run

FLOOR = 0.8  # share of its own utility that an attacked model must keep


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """What a search found.

    Attributes:
        after: mean certify score of the stop that the select split chooses among confirmed configurations.
        attack: its name and parameters; None where no attack beat the released weights.
    """

    after: float
    attack: dict[str, Any] | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Prey:
    """A target that several searches share.

    Attributes:
        path: of the target.
        setting: opened once.
        memo: trials that another search has run already.
    """

    path: Path
    setting: Setting
    memo: Memo


def opened(path: Path) -> Prey:
    """Opens a target that lies beside its manifest."""
    inputs = resolve_one(RunRequest(target=path, budget=1, attacks=("noop",)))
    return Prey(path=path, setting=open_setting(inputs.models["target"].open(), inputs.capability), memo=Memo())


def search(prey: Prey, attacks: Sequence[str], *, budget: int, seed: int, out: Path) -> Found:
    """Searches a target with some attacks and confirms the best configuration on fresh seeds."""
    inputs = resolve_one(RunRequest(target=prey.path, budget=budget, attacks=attacks, seed=seed))
    plan = _suite_plan(prey, inputs) if len(inputs.attacks) > 1 else _family_plan(prey, inputs)
    return _confirmed(prey, inputs, plan, out)


def fixed(prey: Prey, attack: str, params: dict[str, Any], *, seed: int, out: Path) -> Found:
    """Runs one configuration, without any search, and confirms it likewise."""
    inputs = resolve_one(RunRequest(target=prey.path, budget=1, attacks=(attack,), seed=seed))
    return _confirmed(prey, inputs, SearchPlan(recipes=((attack, params),), random=0, adaptive=0), out)


@dataclass(frozen=True, kw_only=True, slots=True)
class Tried:
    """A trial of a search.

    Attributes:
        value: what it achieved; None where it failed or utility did not hold.
        configuration: the attack and its parameters.
    """

    value: float | None
    configuration: Candidate


def trials(prey: Prey, kind: str, *, budget: int, seed: int, out: Path) -> list[Tried]:
    """Returns the trials of a search, in order.

    Args:
        prey: the target.
        kind: "suite", or "random" of the same space: neither recipes nor anything learnt from earlier trials.
        budget: trials.
        seed: of the search.
        out: run directory; a part of the plan's fingerprint is added to its name.
    """
    inputs = resolve_one(RunRequest(target=prey.path, budget=budget, seed=seed))
    plan = _kind_plan(prey, kind, inputs)
    with _run(out, inputs) as run:
        arm = _arm(prey, inputs, run)
        return [Tried(value=_held(one, arm.utility_floor), configuration=Candidate.of(one)) for one in arm.search(plan)]


def torch_of(prey: Prey, *, budget: int, seed: int, out: Path) -> str:
    """Returns the versions of torch that `trials` began and ended with, which differ where it went on elsewhere."""
    place = _place(out, resolve_one(RunRequest(target=prey.path, budget=budget, seed=seed)))
    began = json.loads((place / MANIFEST).read_text(encoding="utf-8"))["environment"]["torch"]
    return ", ".join(sorted({began, environment()["torch"]}))


def digest(prey: Prey, kind: str, *, budget: int) -> str:
    """Returns a digest of all that decides what `trials` finds but for the seed: the target, the plan and versions."""
    inputs = resolve_one(RunRequest(target=prey.path, budget=budget))
    plan = parts_of(_kind_plan(prey, kind, inputs))
    content = json.dumps([inputs.plan.target, plan, inputs.plan.attacks, FLOOR, SEEDS], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def parts_of(plan: SearchPlan) -> dict[str, Any]:
    """Returns what a plan is made of, but for what follows when it is extended: none of these is."""
    return {name: value for name, value in asdict(plan).items() if name != "then"}


def again(prey: Prey, attack: Mapping[str, Any], *, seeds: int, seed: int, out: Path) -> float:
    """Returns what a configuration achieves on seeds that no search used, at the stop that their select scores choose.

    Args:
        prey: the target.
        attack: as it is found: a name, parameters, and where it stopped.
        seeds: so many.
        seed: of all of them.
        out: run directory; a part of the plan's fingerprint is added to its name.
    """
    found = params_of(attack)
    inputs = resolve_one(RunRequest(target=prey.path, budget=1, attacks=(attack["name"],), seed=seed))
    with _run(out, inputs) as run:
        arm = _arm(prey, inputs, run)
        arm.confirm([Candidate(attack=attack["name"], params=found)], seeds)
    return _after(run.path, arm).after


def repeated(prey: Prey, configuration: Candidate, *, out: Path) -> float:
    """Returns what a configuration achieves on fresh seeds, their mean: the best of many trials was lucky too."""
    inputs = resolve_one(RunRequest(target=prey.path, budget=1, attacks=(configuration.attack,)))
    with _run(out, inputs) as run:
        arm = _arm(prey, inputs, run)
        arm.confirm([configuration], SEEDS)
        trials = run.events.trials("target", "confirm")
        values = [_held(trial, arm.utility_floor) for trial in trials]
    return float(np.mean([value or 0.0 for value in values]))


def suite_plan(prey: Prey, *, budget: int) -> SearchPlan:
    """Returns what the whole suite would do with a budget."""
    return _suite_plan(prey, resolve_one(RunRequest(target=prey.path, budget=budget)))


def family_plan(prey: Prey, attack: str, *, budget: int) -> SearchPlan:
    """Returns what a family by itself would do with a budget."""
    return _family_plan(prey, resolve_one(RunRequest(target=prey.path, budget=budget, attacks=(attack,))))


def _kind_plan(prey: Prey, kind: str, inputs: Inputs) -> SearchPlan:
    if kind == "suite":
        return _suite_plan(prey, inputs)
    return SearchPlan(recipes=(), random=inputs.plan.budget, adaptive=0)


def _suite_plan(prey: Prey, inputs: Inputs) -> SearchPlan:
    return plan_search(inputs.attacks, prey.setting.target.info, len(prey.setting.answers), inputs.plan.budget)


def _family_plan(prey: Prey, inputs: Inputs) -> SearchPlan:
    """Returns the plan of one family by itself: its recipes for up to three quarters of the budget, then variations."""
    (attack,) = inputs.attacks.values()
    own = attack.recipes(prey.setting.target.info, len(prey.setting.answers))
    recipes = tuple((attack.name, dict(params)) for params in own[: max(1, 3 * inputs.plan.budget // 4)])
    return SearchPlan(recipes=recipes, random=0, adaptive=inputs.plan.budget - len(recipes))


def _confirmed(prey: Prey, inputs: Inputs, plan: SearchPlan, out: Path) -> Found:
    with _run(out, inputs) as run:
        arm = _arm(prey, inputs, run)
        arm.confirm(arm.choose(arm.search(plan), contended(inputs.plan.budget), longer=True), SEEDS)
    return _after(run.path, arm)


def _run(out: Path, inputs: Inputs) -> RunDirectory:
    """Opens the run of a plan: one of other versions of the attacks has another place, and is in nobody's way."""
    return RunDirectory(_place(out, inputs), inputs.plan)


def _place(out: Path, inputs: Inputs) -> Path:
    return out.with_name(f"{out.name}-{inputs.plan.fingerprint[:8]}")


def _after(run: Path, arm: Arm) -> Found:
    best = strongest_stop(read_evidence(run).stops("target"), floor=arm.utility_floor)
    return Found(after=float(np.mean(best.certify)), attack=dict(best.attack) or None)


def _arm(prey: Prey, inputs: Inputs, run: RunDirectory) -> Arm:
    arm = Arm(
        role="target",
        setting=prey.setting,
        run=Run(inputs, run, Silent(), prey.memo),
        attacks=inputs.attacks,
        floor=FLOOR,
        identity=(str(prey.path),),
    )
    arm.record_before()
    return arm


def _held(trial: TrialEvent, floor: float) -> float | None:
    """Returns what a trial achieved, if utility held."""
    outcome = outcome_of(trial, floor)
    return outcome.value if outcome.shortfall <= 0 else None
