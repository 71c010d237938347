"""One model's part of a run: score it, probe it, search for the strongest attack on it, confirm that attack.

Every step looks into the evidence first and does only what is not there yet, so a resumed run goes on where the
killed one stopped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from redteam.attacks.contract import Attack
from redteam.engine.activations import UnknownLayers
from redteam.engine.devices import device_of
from redteam.engine.seeding import derive_seed
from redteam.engine.snapshot import StructureChanged
from redteam.errors import InputError, one_line
from redteam.probes.contract import Probe, ProbeContext, checked, unreadable
from redteam.probes.states import layers_of
from redteam.registry import ATTACKS, PROBES
from redteam.search.plan import SearchPlan
from redteam.search.selection import Candidate, averaged, contenders, outcome_of, strongest
from redteam.search.study import Search
from redteam.suite.memo import Key
from redteam.suite.repeat import share_unsteady
from redteam.suite.run import Run
from redteam.suite.same import refuse_another
from redteam.trial import Setting, TrialResult, TrialSpec, run_trial

Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Arm:
    """A model in its setting, and the run that it is a part of.

    Attributes:
        role: "original", "target", "reference" or "decoy".
        attacks: that are tried on it, by name.
        floor: share of its own utility that an attacked model must keep.
        identity: says which weights these are and which items they are scored on, for the run's `memo`.
    """

    role: str
    setting: Setting
    run: Run
    attacks: Mapping[str, Attack]
    floor: float
    identity: Key

    @property
    def utility_floor(self) -> float:
        """Utility below which an attack has destroyed the model rather than recovered a capability."""
        return self.floor * float(self.setting.start["utility"].mean())

    def record_before(self) -> None:
        """Records the scores of the released weights, or sees that they are the recorded ones.

        Raises:
            InputError: the evidence is of another model.
        """
        key = f"{self.role}/before"
        evidence = self.run.evidence
        if key in evidence.facts:
            if self.role in self.run.inputs.models:  # others are made here, and elsewhere may come out otherwise
                refuse_another(self.role, self.setting, evidence.path, evidence.facts[key])
            return
        start = self.setting.start
        row: dict[str, Any] = {split: float(scores.mean()) for split, scores in start.items()}
        target = self.setting.target
        info = asdict(target.info) | {"stored_dtype": target.stored_dtype, "device": str(device_of(target.module))}
        samples: dict[str, list[float]] = {split: scores.tolist() for split, scores in start.items()}
        row |= {"model": info, "unsteady": share_unsteady(self.setting)}
        evidence.record("before", key, row, samples)

    def probe(self, probes: Mapping[str, Probe]) -> None:
        """Runs probes on the released weights. What cannot be read is noted, and is no reading."""
        view = self._view()
        for name, probe in probes.items():
            if {f"{self.role}/probe/{name}", f"{self.role}/unprobed/{name}"} & self.run.evidence.facts.keys():
                continue
            reason = unreadable(probe, view)
            if reason is not None:
                self._note_unprobed(name, reason)
            else:
                self._read(name, probe, view)

    def _view(self) -> ProbeContext:
        target, capability, run = self.setting.target, self.setting.capability, self.run
        lent = {role: partial(run.lend, role) for role in ("original", "reference") if role in run.inputs.models}
        return ProbeContext(
            module=target.module,
            tokenizer=target.tokenizer,
            capability=capability,
            layers=layers_of(target.module, target.tokenizer, capability),
            original=lent.get("original"),
            reference=lent.get("reference"),
            seed=run.inputs.plan.seed,
        )

    def _read(self, name: str, probe: Probe, view: ProbeContext) -> None:
        """Records what a probe reads, or that it raised: a probe is anybody's code."""
        inputs = self.run.inputs
        seed = derive_seed(inputs.plan.seed, "probe", name)
        others = [model.sha256 for role, model in sorted(inputs.models.items()) if role in probe.needs]
        identity = (name, str(PROBES.version(name, probe)), str(seed), *others)
        items = len(self.setting.capability.certify)
        try:
            reading = self.run.memo.reading(
                self.identity, identity, lambda: checked(probe.read(replace(view, seed=seed)), items)
            )
        except UnknownLayers as error:  # no reading is better than one of the wrong layers
            return self._note_unprobed(name, str(error))
        except (Exception, SystemExit) as error:  # noqa: BLE001 - recorded, and never a good sign
            why = one_line(f"{type(error).__name__}: {error}")
            return self._note_unprobed(name, why, failed=probe.decides)
        finally:
            self._undo(name)
        row = {"probe": name, "layer": reading.layer, "by_layer": dict(reading.by_layer), "decides": probe.decides}
        samples = {"correct": list(reading.correct), "control": list(reading.control)}
        if reading.chance is not None:
            row["chance"] = reading.chance
        if reading.erased:
            samples["erased"] = list(reading.erased)
        notes = {key: round(value, 6) for key, value in reading.notes.items()}
        self.run.evidence.record("probe", f"{self.role}/probe/{name}", row | {"notes": notes}, samples)

    def _undo(self, name: str) -> None:
        """Restores what a probe should not have changed, so that attacks start from the released weights."""
        try:
            self.setting.released.restore(self.setting.target.module)
            self.run.restore()
        except StructureChanged as error:
            raise InputError(f"{name}: {error}", "Let the probe leave the model as it is") from error

    def _note_unprobed(self, name: str, why: str, *, failed: bool = False) -> None:
        row = {"probe": name, "error": why, "failed": failed}
        self.run.evidence.record("note", f"{self.role}/unprobed/{name}", row)

    def search(self, plan: SearchPlan) -> list[Row]:
        """Runs the plan's trials and returns their rows in order."""
        study = Search(
            plan,
            self.attacks,
            self.setting.target.info,
            len(self.setting.answers),
            seed=self.run.inputs.plan.seed,
            arm=self.role,
            storage=self.run.evidence.path / "study.db",
        )
        rows = []
        for index in range(plan.budget):
            key = f"{self.role}/search/{index:04d}"
            if key in self.run.evidence.trials:
                row: Row = self.run.evidence.trials[key]
                study.replay(index, row["attack"], row["params"])
                self.run.progress.trial(row["value"])
            else:
                attack, params = study.propose(index)
                # The seed does not depend on the role: arms that try the same configuration draw the same samples.
                seed = derive_seed(self.run.inputs.plan.seed, "trial", index)
                spec = TrialSpec(key=key, attack=attack, params=params, seed=seed)
                row = self._run(spec, {"phase": plan.phase(index)})
            study.record(outcome_of(row, self.utility_floor))
            rows.append(row)
        return rows

    def strongest(self, plan: SearchPlan, count: int) -> list[Candidate]:
        """Searches, runs the contenders once more, and returns the `count` best and the best regardless of utility."""
        rows, floor = self.search(plan), self.utility_floor
        contested = contenders(rows, floor, plan.budget)
        if not contested:
            return strongest(rows, floor, count)
        names = {candidate.identity for candidate in contested}
        first = [row for row in rows if Candidate.of(row).identity in names]
        again = [self._again("again", candidate) for candidate in contested]
        return strongest(averaged([*first, *again]), floor, count)

    def confirm(self, candidates: Sequence[Candidate], seeds: int) -> None:
        """Runs every candidate again with fresh seeds, scored on the certify split; each configuration once a run."""
        for candidate in candidates:
            for repeat in range(seeds):
                self._again("confirm", candidate, repeat, certify=True)

    def _again(self, stage: str, candidate: Candidate, repeat: int = 0, *, certify: bool = False) -> Row:
        """Runs a candidate with a fresh seed, unless the evidence holds that trial already, and returns its row."""
        number = self._number(stage, candidate)
        key = f"{self.role}/{stage}/{number:02d}-{repeat}"
        if key in self.run.evidence.trials:
            self.run.progress.trial(self.run.evidence.trials[key]["value"])
            return self.run.evidence.trials[key]
        seed = derive_seed(self.run.inputs.plan.seed, stage, candidate.identity, repeat)
        spec = TrialSpec(key=key, attack=candidate.attack, params=candidate.params, seed=seed, certify=certify)
        return self._run(spec, {"configuration": number})

    def _number(self, stage: str, candidate: Candidate) -> int:
        """Returns the number of a configuration: its own if this stage ran it before, or else the next one."""
        rows = [row for key, row in self.run.evidence.trials.items() if key.startswith(f"{self.role}/{stage}/")]
        known = {Candidate.of(row).identity: int(row["configuration"]) for row in rows}
        return known.get(candidate.identity, max(known.values(), default=-1) + 1)

    def _run(self, spec: TrialSpec, about: Row) -> Row:
        attack = self.attacks[spec.attack]
        version = ATTACKS.version(spec.attack, attack)
        try:
            result = self.run.memo.trial(self.identity, version, spec, lambda: run_trial(self.setting, attack, spec))
        except StructureChanged as error:  # this model is of no further use, and the next would end the same way
            raise InputError(
                f"{spec.attack}: {error}", "Let the attack take down what it puts up; `redteam.testing` checks that"
            ) from error
        row = _row(result) | dict(about)
        row["value"] = outcome_of(row, self.utility_floor).value
        self.run.evidence.record("trial", spec.key, row, _samples(result))
        self.run.progress.trial(row["value"])
        return self.run.evidence.trials[spec.key]


def _row(result: TrialResult) -> dict[str, Any]:
    spec, losses = result.spec, result.losses
    span = max(1, len(losses) // 4)
    return {
        "attack": spec.attack,
        "version": result.version,
        "params": dict(spec.params),
        "seed": spec.seed,
        "state": result.state,
        "error": result.error,
        "diverged": result.diverged,
        "points": [
            asdict(point.spent)
            | {split: float(scores.mean()) for split, scores in point.scores.items()}
            | ({} if point.asked is None else {"asked": point.asked})
            for point in result.points
        ],
        "loss": {"first": sum(losses[:span]) / span, "last": sum(losses[-span:]) / span} if losses else None,
        "share_moved": result.share_moved,
        "outputs_moved": result.outputs_moved,
        "seconds": {name: round(value, 4) for name, value in result.seconds.items()},
    }


def _samples(result: TrialResult) -> dict[str, list[float]]:
    """Returns per-item scores: of the best point on select while searching, of every point on certify after."""
    if result.spec.certify:
        return {
            f"{split}@{point.spent.steps}": scores.tolist()
            for point in result.points
            for split, scores in point.scores.items()
            if split.startswith("certify")
        }
    best = max(result.points, key=lambda p: float(p.scores["select"].mean()))
    return {f"select@{best.spent.steps}": best.scores["select"].tolist()}
