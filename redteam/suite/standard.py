"""Protocol `standard-1`: validate, search, confirm, attack the reference, break the decoy, judge.

A change that could move a number raises the suite's version.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from redteam.attacks.contract import unfitness
from redteam.capabilities.items import SPLITS, Item, blind_score
from redteam.capabilities.leaks import answered_by_nearest
from redteam.engine.devices import full_precision
from redteam.evidence.directory import FINISHED, RunDirectory
from redteam.evidence.results import Results, TargetResult
from redteam.judging.judge import judge
from redteam.judging.together import exit_code
from redteam.judging.verdict import STANDARD_POLICY
from redteam.registry import SUITE
from redteam.search.plan import SearchPlan, plan_search
from redteam.search.selection import Candidate, strongest
from redteam.suite.arm import Arm
from redteam.suite.decoys import decoy_kind, make_decoy
from redteam.suite.inputs import Inputs
from redteam.suite.memo import Key, Memo
from redteam.suite.progress import Progress
from redteam.target import Target
from redteam.trial import open_setting
from redteam.unlearning.masked import Unmaskable

CONFIRMED = 3  # configurations of each arm that are run again
SEEDS = 3  # fresh seeds for each of them
RUNS = Path("results/runs")


def run_path(inputs: Inputs, out: Path | None) -> Path:
    """Returns where the run goes: a function of the plan, so that the same command finds it again."""
    name = inputs.models["target"].name.replace("/", "-").removesuffix(".safetensors").removesuffix(".pt")
    return out or RUNS / f"{name}-{inputs.plan.fingerprint[:8]}"


def run_standard(inputs: Inputs, path: Path, progress: Progress, memo: Memo | None = None) -> Results:
    """Runs the protocol in `path`, judges it, and writes `results.json`. What `memo` holds is not run again."""
    with RunDirectory(path, inputs.plan) as run:
        if FINISHED not in run.facts:
            _record_capability(run, inputs)
            _record_models(run, inputs)
            with full_precision():
                _Protocol(inputs, run, progress, memo).execute()
            run.finish()
        result = judge(path)
        target = inputs.models["target"]
        results = Results(
            suite=SUITE,
            target=TargetResult(name=target.name, sha256=target.sha256),
            capabilities=[result],
            exit_code=exit_code(result),
        )
        run.write_results(results.model_dump_json(indent=2) + "\n")
        return results


class _Protocol:
    """The stages of one run, in order."""

    def __init__(self, inputs: Inputs, run: RunDirectory, progress: Progress, memo: Memo | None) -> None:
        self.inputs, self.run, self.progress, self.memo = inputs, run, progress, memo
        self.winners: list[Candidate] = []
        self.confirmations: dict[str, int] = {}  # candidates of each arm, once they are known

    def execute(self) -> None:
        """Runs what is not in the evidence yet."""
        models = self.inputs.models
        for role in ("original", "reference"):  # before the search: what cannot be used should show at once
            if role in models:
                self.progress.stage(f"reading the {role}")
                self._read(role, self.inputs.open(role, trained=False))
        plan = self._attack_target()
        if "reference" in models:
            self._attack_reference(plan)
        if "original" in models:
            self._break_decoy(plan)

    def _attack_target(self) -> SearchPlan:
        self.progress.stage("searching the target")
        arm = self._fitted(self._read("target", self.inputs.open("target")))
        plan = self._plan(arm)
        self._announce(plan)
        self.winners = strongest(arm.search(plan), arm.utility_floor, CONFIRMED)
        self.progress.stage("confirming on the target")
        self._confirm(arm, self.winners, plan)
        return plan

    def _fitted(self, arm: Arm) -> Arm:
        """Leaves out, for the whole run, attacks that need what the target lacks. Returns the arm without them."""
        module = arm.setting.target.module
        unfit = {name: why for name, attack in self.inputs.attacks.items() if (why := unfitness(attack, module))}
        if unfit:
            self.inputs = self.inputs.without(unfit)
            if "unfit" not in self.run.facts:
                self.run.record("note", "unfit", {"reasons": unfit})
        return replace(arm, inputs=self.inputs)

    def _attack_reference(self, plan: SearchPlan) -> None:
        """Gives the reference the same recipes, the same budget, and the configurations that won on the target."""
        self.progress.stage("attacking the reference")
        arm = self._read("reference", self.inputs.open("reference"))
        own = strongest(arm.search(plan), arm.utility_floor, CONFIRMED)
        self._confirm(arm, [*own, *self.winners], plan)

    def _break_decoy(self, plan: SearchPlan) -> None:
        """Makes a decoy from the original and gives it the recipes and the target's winners."""
        self.progress.stage("breaking the decoy")
        try:
            decoy = make_decoy(self._decoy_kind, self.inputs.open("original"), self.inputs.capability, self.inputs.seed)
        except Unmaskable as error:  # judging finds no decoy and says so
            if "decoy/none" not in self.run.facts:
                self.run.record("note", "decoy/none", {"error": str(error)})
            return
        arm = self._read("decoy", decoy, probe=False)
        tried = arm.search(replace(plan, random=0, adaptive=0))
        own = strongest(tried, arm.utility_floor, 1)
        self._confirm(arm, [*own, *self.winners], plan)

    def _confirm(self, arm: Arm, candidates: list[Candidate], plan: SearchPlan) -> None:
        distinct = list({candidate.identity: candidate for candidate in candidates}.values())
        self.confirmations[arm.role] = len(distinct)
        self._announce(plan)
        arm.confirm(distinct, SEEDS)

    def _read(self, role: str, target: Target, *, probe: bool = True) -> Arm:
        arm = Arm(
            role=role,
            setting=open_setting(target, self.inputs.capability),
            inputs=self.inputs,
            run=self.run,
            progress=self.progress,
            floor=STANDARD_POLICY.utility_floor,
            identity=self._identity(role),
            memo=self.memo,
        )
        arm.record_before()
        if probe:
            arm.probe()
        return arm

    def _identity(self, role: str) -> Key:
        """Returns what the model's weights and their scores depend on: the decoy is made of the original."""
        plan, capability = self.inputs.plan, self.inputs.capability.sha256
        if role == "decoy":
            kind, seed = self._decoy_kind, str(self.inputs.seed)
            return ("decoy", kind, str(plan.original), plan.descriptions["original"], seed, capability)
        return ("model", self.inputs.models[role].sha256, plan.descriptions[role], capability)

    @property
    def _decoy_kind(self) -> str:
        return decoy_kind(self.inputs.attacks)

    def _plan(self, arm: Arm) -> SearchPlan:
        return plan_search(self.inputs.attacks, arm.setting.target.info, len(arm.setting.answers), self.inputs.budget)

    def _announce(self, plan: SearchPlan) -> None:
        """Says how many trials the run takes: what is known by now, and an estimate for arms that come later."""
        winners = self.confirmations.get("target", min(CONFIRMED, plan.budget))
        searched = {"target": plan.budget}
        expected = {"target": winners}
        if "reference" in self.inputs.models:
            searched["reference"], expected["reference"] = plan.budget, winners + 2
        if "original" in self.inputs.models:
            searched["decoy"], expected["decoy"] = len(plan.recipes), winners
        confirmed = sum(self.confirmations.get(role, count) for role, count in expected.items())
        self.progress.plan(sum(searched.values()) + SEEDS * confirmed)


def _record_models(run: RunDirectory, inputs: Inputs) -> None:
    if "models" in run.facts:
        return
    given = {
        role: {"name": model.name, "sha256": model.sha256, "files": dict(model.files)}
        for role, model in inputs.models.items()
    }
    run.record("models", "models", {"given": given})


def _record_capability(run: RunDirectory, inputs: Inputs) -> None:
    if "capability" in run.facts:
        return
    capability = inputs.capability
    row = {
        "name": capability.name,
        "chance": capability.chance,
        "scorer": capability.scorer,
        "also": {scorer: capability.chance_by(scorer) for scorer in capability.scorers[1:]},
        "groups": _numbers(capability.certify),
        "ids": [item.id for item in capability.certify],
        "sizes": {name: len(getattr(capability, name)) for name in SPLITS},
        "select_groups": len({item.group for item in capability.select}),
        "utility_groups": _numbers(capability.utility),
        "utility_chance": blind_score(capability.scorer, capability.utility),
        "seeds": SEEDS,
        "budget": inputs.budget,
        "skipped": inputs.skipped,
        "access": inputs.access,
        "attacks": list(inputs.attacks),
        "attack_access": {name: attack.access for name, attack in inputs.attacks.items()},
        "decoy": decoy_kind(inputs.attacks),
    }
    nearest = answered_by_nearest(capability)
    run.record("capability", "capability", row, {"nearest": nearest} if nearest else {})


def _numbers(items: Sequence[Item]) -> list[int]:
    """Returns the group of each item, counted from 0 in the order in which they occur."""
    numbers: dict[str, int] = {}
    return [numbers.setdefault(item.group, len(numbers)) for item in items]
