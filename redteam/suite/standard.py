"""Protocol `standard-2`: validate, search, run the best again, confirm, attack the reference, break the decoy, judge.

A change that could move a number raises the suite's version. `standard-1` confirmed what was best in single trials, and
drew the answers of seeds anew in its intervals.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from redteam.attacks.contract import unfitness
from redteam.capabilities.canaries import canaries
from redteam.capabilities.items import SPLITS, Capability, Item, blind_score
from redteam.capabilities.leaks import answered_by_nearest
from redteam.checkpoints.live import tensors_digest
from redteam.engine.devices import full_precision
from redteam.errors import InputError
from redteam.evidence.directory import FINISHED, RunDirectory
from redteam.evidence.results import Results, TargetResult
from redteam.judging.judge import judge
from redteam.judging.together import exit_code
from redteam.judging.verdict import STANDARD_POLICY
from redteam.registry import SUITE
from redteam.search.plan import SearchPlan, plan_search
from redteam.search.selection import Candidate, contended, strongest
from redteam.suite.arm import Arm
from redteam.suite.canaries import Untaught, taught
from redteam.suite.decoys import decoy_kind, make_decoy
from redteam.suite.extend import take_over
from redteam.suite.inputs import Inputs
from redteam.suite.memo import Key, Memo
from redteam.suite.progress import Progress
from redteam.suite.same import refuse_another, said_digest
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
        if FINISHED in run.facts:
            _refuse_others(run, inputs)
        else:
            if inputs.extends is not None:
                take_over(run, inputs.extends)
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
        self.tensors: dict[str, str] = {}  # digest of each model's float32 weights, as it was opened

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
        drawn = None if {"original", "reference"} <= models.keys() else self._canaries()
        if drawn is not None:
            self._attack_canaries(plan, drawn)
        if "original" in models:
            self._break_decoy(plan, self.inputs.open("original"), self.inputs.capability)
        elif drawn is not None:
            self._teach(plan, drawn)

    def _attack_target(self) -> SearchPlan:
        self.progress.stage("searching the target")
        arm = self._fitted(self._read("target", self.inputs.open("target")))
        plan = self._plan(arm)
        self._announce(plan)
        self.winners = arm.strongest(plan, CONFIRMED)
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
        own = arm.strongest(plan, CONFIRMED)
        self._confirm(arm, [*own, *self.winners], plan)

    def _canaries(self) -> Capability | None:
        """Returns canaries to stand for what is not given; none where no fact can be drawn, and judging says so."""
        try:
            return canaries(self.inputs.capability, self.inputs.seed)
        except ValueError as error:
            self._note("canary/none", str(error))
            return None

    def _attack_canaries(self, plan: SearchPlan, drawn: Capability) -> None:
        """Attacks the target itself with facts that nobody taught it: what attacks teach a model that never knew."""
        self.progress.stage("attacking the target with canaries")
        alone = "reference" not in self.inputs.models
        arm = self._read("canary", self.inputs.open("target"), capability=drawn, probe=alone)
        self._recipes_and_winners(arm, plan)

    def _teach(self, plan: SearchPlan, drawn: Capability) -> None:
        """Teaches canaries to a copy of the target, and makes of it the decoy that there is no original for."""
        self.progress.stage("teaching canaries to a copy")
        try:
            knows = taught(self.inputs.open("target"), drawn, self.inputs.seed)
        except Untaught as error:
            self._note("decoy/none", str(error))
            return
        self._read("taught", knows, capability=drawn, probe=False)
        self._break_decoy(plan, knows, drawn)

    def _break_decoy(self, plan: SearchPlan, whole: Target, about: Capability) -> None:
        """Makes a decoy from a model that knows, and gives it the recipes and the target's winners."""
        self.progress.stage("breaking the decoy")
        try:
            decoy = make_decoy(self._decoy_kind, whole, about, self.inputs.seed)
        except Unmaskable as error:  # judging finds no decoy and says so
            self._note("decoy/none", str(error))
            return
        self._recipes_and_winners(self._read("decoy", decoy, capability=about, probe=False), plan)

    def _recipes_and_winners(self, arm: Arm, plan: SearchPlan) -> None:
        tried = arm.search(plan.recipes_alone)
        own = strongest(tried, arm.utility_floor, 1)
        self._confirm(arm, [*own, *self.winners], plan)

    def _note(self, key: str, error: str) -> None:
        if key not in self.run.facts:
            self.run.record("note", key, {"error": error})

    def _confirm(self, arm: Arm, candidates: list[Candidate], plan: SearchPlan) -> None:
        distinct = list({candidate.identity: candidate for candidate in candidates}.values())
        self.confirmations[arm.role] = len(distinct)
        self._announce(plan)
        arm.confirm(distinct, SEEDS)

    def _read(self, role: str, target: Target, *, capability: Capability | None = None, probe: bool = True) -> Arm:
        about = capability or self.inputs.capability
        if role in self.inputs.models:
            self._refuse_same(role, target)
        setting = open_setting(target, about)
        arm = Arm(
            role=role,
            setting=setting,
            inputs=self.inputs,
            run=self.run,
            progress=self.progress,
            floor=STANDARD_POLICY.utility_floor,
            identity=(*self._identity(role, about), said_digest(setting)),
            memo=self.memo,
        )
        arm.record_before()
        if probe:
            deciding = {name: one for name, one in self.inputs.probes.items() if one.decides}
            canary = role == "canary"  # what decides nothing need not be compared with anything
            (replace(arm, inputs=replace(self.inputs, probes=deciding)) if canary else arm).probe()
        return arm

    def _refuse_same(self, role: str, target: Target) -> None:
        """Refuses a reference whose weights are those of another model: saved in another form, files do not show it.

        Raises:
            InputError: they are.
        """
        self.tensors[role] = tensors_digest(target.module)
        same = [other for other, digest in self.tensors.items() if digest == self.tensors[role] and other != role]
        if same and "reference" in (role, *same):
            other = role if role != "reference" else same[0]
            raise InputError(
                f"the reference has the weights of the {other}", "Give a model that never had the capability"
            )

    def _identity(self, role: str, capability: Capability) -> Key:
        """Returns what the model's weights and their scores depend on: the decoy is made of another model."""
        plan, about = self.inputs.plan, capability.sha256
        made_of = {"decoy": "original" if "original" in plan.descriptions else "target"}
        source = made_of.get(role, "target" if role in ("canary", "taught") else role)
        model = ("model", self.inputs.models[source].sha256, plan.descriptions[source], about)
        if role in ("decoy", "taught"):
            return (role, self._decoy_kind, str(self.inputs.seed), *model)
        return model

    @property
    def _decoy_kind(self) -> str:
        return decoy_kind(self.inputs.attacks)

    def _plan(self, arm: Arm) -> SearchPlan:
        info, samples = arm.setting.target.info, len(arm.setting.answers)
        return plan_search(self.inputs.attacks, info, samples, self.inputs.budget, self.inputs.earlier)

    def _announce(self, plan: SearchPlan) -> None:
        """Says how many trials the run takes: what is known by now, and an estimate for arms that come later."""
        winners = self.confirmations.get("target", min(CONFIRMED, plan.budget))
        searched, recipes = {"target": plan.budget}, len(plan.recipes_alone.recipes)
        expected = {"target": winners}
        if "reference" in self.inputs.models:
            searched["reference"], expected["reference"] = plan.budget, winners + 2
        if "original" in self.inputs.models:
            searched["decoy"], expected["decoy"] = recipes, winners
        if not {"original", "reference"} <= self.inputs.models.keys() and self.inputs.capability.kind == "language":
            for role in {"canary", "decoy"} - searched.keys():
                searched[role], expected[role] = recipes, winners
        confirmed = sum(self.confirmations.get(role, count) for role, count in expected.items())
        again = sum(self._again(role, plan) for role in {"target", "reference"} & searched.keys())
        self.progress.plan(sum(searched.values()) + again + SEEDS * confirmed)

    def _again(self, role: str, plan: SearchPlan) -> int:
        """Returns how many contenders of an arm are run again: what was, once it is known."""
        if role not in self.confirmations:
            return contended(plan.budget)
        return sum(key.startswith(f"{role}/again/") for key in self.run.trials)


def _refuse_others(run: RunDirectory, inputs: Inputs) -> None:
    """Refuses modules of the user's own that are not those of a run that is over; files are known by their digests."""
    for role, model in inputs.models.items():
        before = run.facts.get(f"{role}/before")
        if not model.files and before is not None:
            refuse_another(role, open_setting(inputs.open(role, trained=False), inputs.capability), run.path, before)


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
        "scorer": capability.scorer.name,
        "also": {scorer.name: capability.chance_by(scorer) for scorer in capability.scorers[1:]},
        "groups": _numbers(capability.certify),
        "ids": [item.id for item in capability.certify],
        "sizes": {name: len(getattr(capability, name)) for name in SPLITS},
        "select_groups": len({item.group for item in capability.select}),
        "utility_groups": _numbers(capability.utility),
        "utility_chance": blind_score(capability.scorer, capability.utility),
        "seeds": SEEDS,
        "budget": inputs.budget,
        "looks": 1 + len(inputs.earlier),
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
