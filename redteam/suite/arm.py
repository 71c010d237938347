"""One model's part of a run: score it, probe it, search for the strongest attack on it, confirm that attack.

Every step looks into the evidence first and does only what is not there yet, so a resumed run goes on where the
killed one stopped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import inf

from threadpoolctl import threadpool_limits

from redteam.attacks.contract import Attack
from redteam.capabilities.items import Capability, blind_score
from redteam.engine.activations import UnknownLayers
from redteam.engine.seeding import derive_seed
from redteam.engine.snapshot import StructureChanged
from redteam.errors import InputError, one_line
from redteam.evidence import keys
from redteam.evidence.events import ChoiceEvent, TrialEvent, UnprobedNote
from redteam.evidence.stops import utility_floor
from redteam.probes.contract import Probe, ProbeContext, checked, unreadable
from redteam.probes.states import layers_of
from redteam.registry import ATTACKS, PROBES
from redteam.search.plan import SearchPlan
from redteam.search.selection import (
    FINALISTS,
    Candidate,
    averaged,
    choice_of,
    contenders,
    cost_of,
    goes_on,
    outcome_of,
    rising,
    strongest,
)
from redteam.search.study import Search
from redteam.setting import Setting
from redteam.suite.memo import Key
from redteam.suite.records import before_event, probe_event, trial_event
from redteam.suite.run import Run
from redteam.suite.same import refuse_another
from redteam.trial import TrialSpec, run_trial

FINAL = 2  # number of the repeat that finalists are given: others have had one or two before


@dataclass(frozen=True, kw_only=True, slots=True)
class Arm:
    """A model in its setting, and the run that it is a part of.

    Attributes:
        role: "original", "target", "reference" or "decoy".
        attacks: that are tried on it, by name.
        floor: share of its own utility above chance that an attacked model must keep.
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
        capability, utility = self.setting.capability, float(self.setting.start["utility"].mean())
        return utility_floor(self.floor, utility, blind_score(capability.utility_scorer, capability.utility))

    def record_before(self) -> None:
        """Records the scores of the released weights, or sees that they are the recorded ones.

        Raises:
            InputError: the evidence is of another model.
        """
        evidence = self.run.evidence
        recorded = evidence.events.before(self.role)
        if recorded is None:
            evidence.record(*before_event(self.role, self.setting))
        elif self.role in self.run.inputs.models:  # others are made here, and elsewhere may come out otherwise
            refuse_another(self.role, self.setting, evidence.path, recorded)

    def probe(self, probes: Mapping[str, Probe]) -> None:
        """Runs probes on the released weights, and those that decide in every further wording too, see `keys.worded`.

        What cannot be read is noted, and is no reading.
        """
        capability = self.setting.capability
        self._probe(probes, capability, {name: name for name in probes})
        deciding = [name for name, probe in probes.items() if probe.decides]
        for number in range(1, capability.further_wordings + 1):
            self._probe(probes, capability.worded(number), {keys.worded(name, number): name for name in deciding})

    def _probe(self, probes: Mapping[str, Probe], capability: Capability, named: Mapping[str, str]) -> None:
        """Runs probes on the items of a capability; `named` says what each is recorded as."""
        view, recorded = self._view(capability), self.run.evidence.events
        for name, registered in named.items():
            if keys.probe(self.role, name) in recorded or keys.unprobed(self.role, name) in recorded:
                continue
            reason = unreadable(probes[registered], view)
            if reason is not None:
                self._note_unprobed(name, reason)
            else:
                self._read(name, registered, probes[registered], view)

    def _view(self, capability: Capability) -> ProbeContext:
        target, run = self.setting.target, self.run
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

    def _read(self, name: str, registered: str, probe: Probe, view: ProbeContext) -> None:
        """Records what a probe reads, or that it raised: a probe is anybody's code."""
        inputs = self.run.inputs
        self.run.progress.within(name)
        seed = derive_seed(inputs.plan.seed, "probe", name)
        others = [model.sha256 for role, model in sorted(inputs.models.items()) if role in probe.needs]
        identity = (name, str(PROBES.version(registered, probe)), str(seed), *others)
        items = len(self.setting.capability.certify)
        try:
            with threadpool_limits(limits=1, user_api="blas"):  # threads of small products wait for each other
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
        self.run.evidence.record(*probe_event(self.role, name, reading, decides=probe.decides))

    def _undo(self, name: str) -> None:
        """Restores what a probe should not have changed, so that attacks start from the released weights."""
        try:
            self.setting.released.restore(self.setting.target.module)
            self.run.restore()
        except StructureChanged as error:
            raise InputError(f"{name}: {error}", "Let the probe leave the model as it is") from error

    def _note_unprobed(self, name: str, why: str, *, failed: bool = False) -> None:
        key = keys.unprobed(self.role, name)
        self.run.evidence.record(UnprobedNote(key=key, probe=name, error=why, failed=failed))

    def search(self, plan: SearchPlan, enough: float = inf) -> list[TrialEvent]:
        """Runs the plan's trials, until one reaches a select score that is enough, and returns them in order."""
        study = Search(
            plan,
            self.attacks,
            self.setting.target.info,
            self.setting.samples,
            seed=self.run.inputs.plan.seed,
            arm=self.role,
            storage=self.run.evidence.path / "study.db",
        )
        trials = []
        for index in range(plan.budget):
            key = keys.search(self.role, index)
            trial = self.run.evidence.events.find(key, TrialEvent)
            if trial is not None:
                study.replay(index, trial.attack, trial.params)
                self.run.progress.trial(trial.value)
            else:
                attack, params = study.propose(index)
                # The seed does not depend on the role: arms that try the same configuration draw the same samples.
                seed = derive_seed(self.run.inputs.plan.seed, "trial", index)
                spec = TrialSpec(key=key, attack=attack, params=params, seed=seed)
                trial = self._run(spec, phase=plan.phase(index))
            study.record(outcome_of(trial, self.utility_floor))
            trials.append(trial)
            if self.reaches(trial, enough):
                break
        return trials

    def reaches(self, trial: TrialEvent, score: float) -> bool:
        """Returns whether a trial brought the select score so far where utility holds."""
        outcome = outcome_of(trial, self.utility_floor)
        return outcome.value is not None and outcome.shortfall <= 0 and outcome.value >= score

    def choose(
        self, trials: Sequence[TrialEvent], count: int, others: Sequence[Candidate] = (), *, longer: bool = False
    ) -> list[Candidate]:
        """Records which configuration is confirmed, and where it stops, at the utility floor and regardless of it.

        Contenders are run again for that, the best of them once more, and no certify item is looked at.

        Args:
            trials: of the search.
            count: contenders, see `contenders`.
            others: that won on another model, and may do so here.
            longer: whether those whose curves still rise go on.

        Returns:
            The configurations that were chosen: one, two, or none.
        """
        floor = self.utility_floor
        contested = contenders(trials, floor, count, others)
        searched = {Candidate.of(trial).identity for trial in trials}
        seen = [trial for trial in trials if trial.state == "complete"]
        for candidate in contested:
            fresh = 1 if candidate.identity in searched else 2
            seen += [self._again("again", candidate, repeat) for repeat in range(fresh)]
        names = {candidate.identity for candidate in contested}
        ranked = averaged(trial for trial in seen if Candidate.of(trial).identity in names)
        if longer:
            self._go_on(ranked, cost_of(trials))
            seen += self.run.evidence.events.trials(self.role, "longer")
            ranked += averaged(self.run.evidence.events.trials(self.role, "longer"))
        finalists = strongest(ranked, floor, FINALISTS)
        if len(finalists) > 1:
            seen += [self._again("again", candidate, FINAL) for candidate in finalists]
        names = {candidate.identity for candidate in finalists}
        return self._choose(averaged(trial for trial in seen if Candidate.of(trial).identity in names))

    def _choose(self, ranked: Sequence[TrialEvent]) -> list[Candidate]:
        """Records the best of these, unless it was recorded before the run was interrupted."""
        evidence, released = self.run.evidence, float(self.setting.start["select"].mean())
        floor, any_utility = (choice_of(ranked, utility) for utility in (self.utility_floor, -inf))
        if keys.choice(self.role) not in evidence.events:
            key = keys.choice(self.role)
            evidence.record(ChoiceEvent(key=key, released=released, floor=floor, any_utility=any_utility))
        made = [Candidate(attack=one.attack, params=one.params) for one in (floor, any_utility) if one is not None]
        return list({candidate.identity: candidate for candidate in made}.values())

    def _go_on(self, ranked: Sequence[TrialEvent], most: float) -> None:
        """Runs configurations whose curves still rise with twice the steps, and again while they do.

        Args:
            ranked: a trial for each configuration.
            most: FLOPs that all of these may take together, the search's own: an arm costs at most twice its search.
        """
        floor, facts = self.utility_floor, len({item.group for item in self.setting.capability.select})
        for shorter in rising(ranked, floor, facts):
            trial = shorter
            while goes_on(trial, floor, facts):
                longer = Candidate.of(trial).twice()
                assert longer is not None
                done = self.run.evidence.events.trials(self.role, "longer")
                if longer.identity not in {Candidate.of(one).identity for one in done}:
                    if cost_of(done) + 2 * cost_of([trial]) > most:
                        break
                    self.run.announce(self.run.announced + 1)
                trial = self._again("longer", longer)

    def confirm(self, candidates: Sequence[Candidate], seeds: int) -> None:
        """Runs every candidate again with fresh seeds, scored on the certify split; each configuration once a run."""
        for candidate in candidates:
            for repeat in range(seeds):
                self._again("confirm", candidate, repeat, certify=True)

    def _again(self, stage: keys.Stage, candidate: Candidate, repeat: int = 0, *, certify: bool = False) -> TrialEvent:
        """Runs a candidate with a fresh seed, unless the evidence holds that trial already, and returns the trial."""
        number = self._number(stage, candidate)
        key = keys.repeat(self.role, stage, number, repeat)
        recorded = self.run.evidence.events.find(key, TrialEvent)
        if recorded is not None:
            self.run.progress.trial(recorded.value)
            return recorded
        seed = derive_seed(self.run.inputs.plan.seed, stage, candidate.identity, repeat)
        spec = TrialSpec(key=key, attack=candidate.attack, params=candidate.params, seed=seed, certify=certify)
        return self._run(spec, configuration=number)

    def _number(self, stage: keys.Stage, candidate: Candidate) -> int:
        """Returns the number of a configuration: its own if this stage ran it before, or else the next one."""
        trials = self.run.evidence.events.trials(self.role, stage)
        known = {Candidate.of(trial).identity: trial.configuration or 0 for trial in trials}
        return known.get(candidate.identity, max(known.values(), default=-1) + 1)

    def _run(self, spec: TrialSpec, **about: str | int) -> TrialEvent:
        attack = self.attacks[spec.attack]
        version = ATTACKS.version(spec.attack, attack)
        try:
            result = self.run.memo.trial(self.identity, version, spec, lambda: run_trial(self.setting, attack, spec))
        except StructureChanged as error:  # this model is of no further use, and the next would end the same way
            raise InputError(
                f"{spec.attack}: {error}", "Let the attack take down what it puts up; `redteam.testing` checks that"
            ) from error
        trial, samples = trial_event(result, **about)
        trial = trial.model_copy(update={"value": outcome_of(trial, self.utility_floor).value})
        self.run.evidence.record(trial, samples)
        self.run.progress.trial(trial.value)
        return trial
