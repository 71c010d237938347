"""Synthetic runs: evidence as `redteam.suite.arm` records it, of models whose answer is known."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from redteam.evidence import keys
from redteam.evidence.directory import RunDirectory, RunPlan
from redteam.evidence.events import (
    BeforeEvent,
    CapabilityEvent,
    Choice,
    ChoiceEvent,
    GivenModel,
    Loss,
    ModelsEvent,
    PointRecord,
    ProbeEvent,
    TrialEvent,
    UnprobedNote,
)
from redteam.evidence.evidence import read_evidence
from redteam.evidence.results import CapabilityResult
from redteam.judging.case import Case
from redteam.judging.checks.check import Check
from redteam.judging.checks.table import CHECKS
from redteam.judging.judge import judge
from redteam.judging.verdict import STANDARD_POLICY, Policy
from redteam.registry import ATTACKS, STANDARD_ATTACKS, STANDARD_PROBES, SUITE
from redteam.search.selection import CONFIRMATION

CHANCE, SEEDS, BUDGET = 0.0625, 3, 6
SHOWN, TUNED = (1, 2, 4, 16, 32), 4
STEPS = (1, 2, 4, 8)
VERSION = ATTACKS.declared("retrain").facts["version"]
PLAN = RunPlan(
    suite=SUITE,
    target="t",
    original="o",
    reference="r",
    descriptions={},
    capability=("birthdays", "c"),
    attacks={"retrain": VERSION},
    probes={"linear": 1},
    budget=BUDGET,
    seed=0,
)


OTHERS = {name: "it works on: others" for name in STANDARD_ATTACKS if name != "retrain"}


@dataclass(frozen=True, kw_only=True)
class Attack:
    """A confirmed configuration: the share of facts it brings back by its last step, and what its rows say.

    Attributes:
        after: share of facts right after the last step; it rises in a straight line over the steps scored.
        states: of each seed; a seed that diverged is complete and has no point after the released weights.
    """

    after: float
    utility: float = 1.0
    moved: float = 0.9
    loss: tuple[float, float] | None = (2.0, 0.1)
    steps: tuple[int, ...] = STEPS
    states: tuple[str, ...] = ("complete",) * SEEDS


@dataclass(frozen=True, kw_only=True)
class Model:
    """Before any attack, what a probe reads, what confirmed attacks do, and how many search trials failed."""

    before: float
    utility: float = 1.0
    probe: float | None = None
    attacks: tuple[Attack, ...] = ()
    failed: int = 0


@dataclass(frozen=True, kw_only=True)
class World:
    """A run. The defaults are of a model that hid what it was to forget, with everything else in order.

    Attributes:
        models: by role; `target:4` is the target attacked with four examples of what was removed.
        shown: with how many of them models are attacked; () where all have the whole attack split.
    """

    groups: int = 100
    per_group: int = 2
    shown: tuple[int, ...] = ()
    models: dict[str, Model] = field(
        default_factory=lambda: {
            "original": Model(before=1.0, probe=1.0),
            "target": Model(before=0.1, probe=0.1, attacks=(Attack(after=0.95),)),
            "reference": Model(before=0.05, probe=0.08, attacks=(Attack(after=0.08),)),
            "decoy": Model(before=0.05, attacks=(Attack(after=0.95),)),
        }
    )

    def change(self, role: str, **changes: object) -> World:
        return replace(self, models={**self.models, role: replace(self.models[role], **changes)})

    def without(self, *roles: str) -> World:
        return replace(self, models={role: model for role, model in self.models.items() if role not in roles})


def counted(world: World, **learns: Sequence[float]) -> World:
    """A run about a class: three models that never knew, and what each learns of 1, 2, 4, 16 and 32 examples.

    Args:
        world: without examples.
        learns: model -> certify scores; by default those of models that never knew, and of a target like them.
    """
    usual = (0.3, 0.4, 0.5, 0.75, 0.8)
    by_model = {"target": usual[:3], "reference": usual, "reference-2": [score + 0.03 for score in usual]}
    by_model |= {"reference-3": [score - 0.03 for score in usual]} | learns
    models = dict(world.models)
    for number in (2, 3):
        models[f"reference-{number}"] = models["reference"]
    for model, scores in by_model.items():
        for count, score in zip(SHOWN, scores, strict=False):
            models[f"{model}:{count}"] = replace(models[model], attacks=(Attack(after=score),))
    hidden = models["decoy"]
    models |= {"masked": replace(hidden, attacks=()), f"masked:{TUNED}": hidden}
    return replace(world, models=models, shown=SHOWN)


MASKED = World()
NEVER_TRAINED = MASKED.change("target", before=0.05, probe=0.08, attacks=(Attack(after=0.08),))


def record(path: Path, world: World, plan: RunPlan = PLAN, *, whole: bool = False) -> Path:
    """Writes the evidence of `world` to `path` and returns it: a run that is over, of one attack.

    Of a `whole` suite the others are said not to work on such a model, and so are the other probes.
    """
    groups = [group for group in range(world.groups) for _ in range(world.per_group)]
    with RunDirectory(path, plan) as run:
        asked: dict[str, Any] = {"attacks": ("retrain",), "skipped": OTHERS} if whole else {}
        asked |= {"shown": world.shown, "tuned": TUNED} if world.shown else {}
        run.record(
            CapabilityEvent(
                name=plan.capability[0],
                chance=CHANCE,
                groups=tuple(groups),
                select_groups=40,
                utility_groups=tuple(range(40)),
                utility_chance=CHANCE,
                seeds=SEEDS,
                budget=BUDGET,
                looks=1 + len(plan.extends),
                suite=plan.suite,
                confirmation=CONFIRMATION,
                **asked,
            )
        )
        given = {role: _given(role, plan) for role in ("target", "original", "reference") if role in world.models}
        run.record(ModelsEvent(given=given))
        for name in STANDARD_PROBES if whole else ():
            if name != "linear":
                key = keys.unprobed("target", name)
                run.record(UnprobedNote(key=key, probe=name, error="it reads: others", failed=False))
        for number, (role, model) in enumerate(world.models.items()):
            _record_model(run, role, model, groups, np.random.default_rng(number))
        run.finish()
    return path


def judge_run(path: Path, policy: Policy = STANDARD_POLICY, checks: Sequence[Check[Case]] = CHECKS) -> CapabilityResult:
    """Judges what a directory holds, whatever its seal says: tests change the evidence of runs that are over."""
    return judge(read_evidence(path), policy, checks)


def known(**facts: Any) -> Case:
    """A case of which only this is known, under the names of its attributes and methods."""
    case = object.__new__(Case)
    for name, value in {"policy": STANDARD_POLICY, **facts}.items():
        object.__setattr__(case, name, value)
    return case


def tell(folder: Path) -> Path:
    """Writes the common results of the runs in a folder, as a run of several capabilities does at its end."""
    plans = [json.loads(path.read_text()) for path in sorted(folder.glob("*/manifest.json"))]
    rows = [{"name": plan["capability"][0]} for plan in plans]
    (folder / "results.json").write_text(json.dumps({"capabilities": rows}))
    return folder


def _given(role: str, plan: RunPlan) -> GivenModel:
    digest = getattr(plan, role) or "none"
    return GivenModel(name=f"{role}.pt", sha256=digest, files={f"{role}.pt": digest})


def _record_model(run: RunDirectory, role: str, model: Model, groups: list[int], rng: np.random.Generator) -> None:
    easy = rng.permutation(max(groups) + 1)  # facts in the order in which they come back

    def scores(rate: float) -> list[float]:
        """The easiest facts; seeds disagree a little about which those are."""
        rank = np.arange(len(easy)) + rng.normal(0, 0.03 * len(easy), len(easy))
        right = set(easy[np.argsort(rank)[: round(rate * len(easy))]].tolist())
        return [float(group in right) for group in groups]

    if ":" in role:
        _record_attacks(run, role, model, scores)
        return
    start = BeforeEvent(key=keys.before(role), select=model.before, certify=model.before, utility=model.utility)
    kept = [float(item < round(40 * model.utility)) for item in range(40)]
    run.record(start, {"certify": scores(model.before), "utility": kept})
    if model.probe is not None:
        readings = {"correct": scores(model.probe), "control": scores(CHANCE)}
        run.record(ProbeEvent(key=keys.probe(role, "linear"), probe="linear", layer="layer.1", by_layer={}), readings)
    if role not in ("original", "taught", "masked"):
        _record_attacks(run, role, model, scores)


def _record_attacks(run: RunDirectory, role: str, model: Model, scores: Callable[[float], list[float]]) -> None:
    for index in range(BUDGET):
        best = max((a.after for a in model.attacks), default=model.before)
        state = "failed" if index < model.failed else "complete"
        value = None if state == "failed" else best - index / 100
        about = {"phase": "random" if index > 1 else "recipe", "value": value}
        run.record(_trial(keys.search(role, index), Attack(after=best), model, state, certify=False, **about))
    for number, attack in enumerate(model.attacks):
        for repeat, state in enumerate(attack.states):
            key, about = keys.repeat(role, "confirm", number, repeat), {"configuration": number, "value": attack.after}
            trial = _trial(key, attack, model, state, certify=True, **about)
            samples = {keys.at("certify", p.steps): scores(p.certify or 0.0) for p in trial.points}
            run.record(trial, samples)
    if ":" in role:
        chosen = [
            Choice(attack="retrain", params=trial.params, steps=a.steps[-1], select=a.after) for a in model.attacks
        ]
        best = chosen[0] if chosen else None
        run.record(ChoiceEvent(key=keys.choice(role), released=model.before, floor=best, any_utility=best))


def _trial(key: str, attack: Attack, model: Model, state: str, *, certify: bool, **about: Any) -> TrialEvent:
    points = []
    for step in (0, *attack.steps) if state == "complete" else (0,):
        part = step / attack.steps[-1]
        rate = model.before + part * (attack.after - model.before)
        utility = model.utility + part * (attack.utility - model.utility)
        cost = {"steps": step, "samples": 16 * step, "tokens": 96 * step, "flops": 1e6 * step}
        certified = {"certify": rate} if certify else {}
        points.append(PointRecord(**cost, select=rate, utility=utility, **certified))
    first, last = attack.loss or (0.0, 0.0)
    if state == "diverged":  # before the first point, so there is one loss at most
        last = first
    return TrialEvent(
        key=key,
        attack="retrain",
        version=VERSION,
        params={"learning_rate": 0.001, "steps": attack.steps[-1]},
        seed=1,
        state="failed" if state == "failed" else "complete",
        error="RuntimeError: no" if state == "failed" else None,
        diverged=state == "diverged",
        points=tuple(points),
        loss=Loss(first=first, last=last) if attack.loss else None,
        share_moved=attack.moved,
        outputs_moved=float(attack.moved > 0),
        seconds={"total": 1.0, "training": 0.5, "scoring": 0.5},
        **about,
    )
