"""Protocol `standard-3`: validate, search, confirm, attack and check the reference, break the decoy, judge.

A change that could move a number raises the suite's version. `standard-1` confirmed what was best in single trials, and
drew the answers of seeds anew in its intervals. `standard-2` could be fooled: it attacked in training mode, held what
can be switched off to the utility floor, and believed whatever reference it was given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from redteam.capabilities.canaries import canaries
from redteam.capabilities.items import Capability
from redteam.engine.devices import full_precision
from redteam.evidence import keys
from redteam.evidence.directory import RunDirectory
from redteam.evidence.events import NoneNote, TrialEvent
from redteam.evidence.results import Results, TargetResult
from redteam.evidence.sealed import SealedRun, open_sealed
from redteam.exit_codes import code_of
from redteam.judging.judge import judge
from redteam.probes.contract import Probe
from redteam.registry import SUITE
from redteam.search.selection import Candidate, contended
from redteam.setting import examples_at_first, open_setting
from redteam.suite.about import record_inputs
from redteam.suite.arms import Arms, Searching
from redteam.suite.canaries import Untaught, taught
from redteam.suite.counting import back_without_examples, count_examples
from redteam.suite.decoys import decoy_kind, make_decoy
from redteam.suite.extend import take_over
from redteam.suite.inputs import Inputs
from redteam.suite.memo import Memo
from redteam.suite.progress import Progress
from redteam.suite.run import Run
from redteam.suite.same import refuse_another
from redteam.target import Target
from redteam.unlearning.masked import Unmaskable


def run_standard(inputs: Inputs, path: Path, progress: Progress, memo: Memo | None = None) -> tuple[Results, SealedRun]:
    """Runs the protocol in `path`, judges it, and writes `results.json`. What `memo` holds is not run again.

    Returns:
        What was found, and the evidence that it was found in.
    """
    with RunDirectory(path, inputs.plan) as evidence:
        run = Run(inputs, evidence, progress, memo)
        if keys.FINISHED in evidence.events:
            _refuse_others(run)
        else:
            if evidence.resumed:
                done = sum(isinstance(event, TrialEvent) for event in evidence.events.by_key.values())
                progress.note(f"resumed: {done} trials are done already")
            if inputs.extends is not None:
                take_over(evidence, inputs.extends)
            record_inputs(evidence, inputs)
            with full_precision():
                _Protocol(run).execute()
            evidence.finish()
        sealed = open_sealed(path)
        result = judge(sealed.evidence)
        target = inputs.models["target"]
        results = Results(
            suite=SUITE,
            target=TargetResult(name=target.name, sha256=target.sha256),
            capabilities=[result],
            exit_code=code_of(result.verdict, gated=False),
        )
        evidence.write_results(results.model_dump_json(indent=2) + "\n")
        return results, sealed


class _Protocol:
    """The stages of one run, in order."""

    def __init__(self, run: Run) -> None:
        self.run, self.models, self.capability = run, run.inputs.models, run.inputs.capability
        self.arms = Arms(run)
        self.references = [role for role in self.models if keys.is_reference(role)]
        self.both = {"original", "reference"} <= self.models.keys()
        # Of a class anybody learns a few examples: what is removed is first looked for without any, see `counting`.
        self.counted = self.capability.by_examples
        self.shown = examples_at_first(self.capability)
        self.shares = ((1, 2), (2, 2)) if self.counted else ((1, 1), (1, 1))  # of the budget, of both searches

    def execute(self) -> None:
        """Runs what is not in the evidence yet."""
        given = [role for role in self.models if role != "target"]
        for role in given:  # before anything is read of one of them: what cannot be used should show at once
            self.run.progress.stage(f"reading the {role}")
            self.run.setting(role, trained=False)
        for role in given:
            probes = {} if role in self._unprobed() else self._probes()
            self.arms.read(role, self.run.setting(role, trained=False), probes=probes)
        search = self._attack_target()
        own = self._attack_references(search) if self.references else ()
        drawn = None if self.both and self.capability.kind == "classifier" else self._canaries()
        if drawn is not None and self.both:
            self._check_reference(search, own, drawn)
        elif drawn is not None:
            self._attack_canaries(search, drawn)
        if "original" in self.models:
            original = self.run.setting("original", trained=False)
            self._break_decoy(search, original.target, replace(self.capability, typical=original.capability.typical))
        elif drawn is not None:
            self._teach(search, drawn)
        if self.counted:
            self._count_examples()

    def _unprobed(self) -> Sequence[str]:
        """Returns the references that no probe reads; of classifiers, which are small, all are read."""
        return () if self.counted else self.references[1:]

    def _probes(self) -> Mapping[str, Probe]:
        """Returns the probes of the run; none of samples, of which a label is no secret and states say nothing more."""
        return {} if self.capability.of_samples else self.run.inputs.probes

    def _attack_target(self) -> Searching:
        self.run.progress.stage("searching the target")
        self.arms.read("target", self.run.setting("target"), probes=self._probes())
        setting = self.run.setting("target")  # probes may have taken its room
        search = self.arms.searching(setting, self.shown, self.shares[0])
        self._expect(search)
        arm = self.arms.arm("target", setting, search)
        search = replace(search, winners=self.arms.search(arm, search))
        self.run.progress.stage("confirming on the target")
        self.arms.confirm(arm, search.winners)
        return search

    def _attack_references(self, search: Searching) -> Sequence[Candidate]:
        """Gives the reference the same recipes, the same budget, and the configurations that won on the target.

        A further one is given what won on either: how such models differ is then known, at a tenth of the price.

        Returns:
            The configurations that won on a reference.
        """
        self.run.progress.stage("attacking the reference")
        arm = self.arms.arm("reference", self.run.setting("reference"), search)
        won = self.arms.search(arm, search, search.winners)
        self.arms.confirm(arm, won)
        for number, role in enumerate(self.references[1:], 2):
            self.run.progress.stage(f"attacking reference {number}")
            arm = self.arms.arm(role, self.run.setting(role), search)
            own = arm.choose((), 0, list({one.identity: one for one in (*won, *search.winners)}.values()))
            self.arms.confirm(arm, own)
            won += own
        return list({candidate.identity: candidate for candidate in won}.values())

    def _canaries(self) -> Capability | None:
        """Returns canaries to stand for what is not given; none where no fact can be drawn, and judging says so."""
        try:
            return canaries(self.capability, self.run.inputs.plan.seed)
        except ValueError as error:
            self.arms.note_none("canary", str(error))
            return None

    def _check_reference(self, search: Searching, own: Sequence[Candidate], drawn: Capability) -> None:
        """Attacks the target with canaries by what won on the reference: it should have been taught no more."""
        self.run.progress.stage("checking the reference with canaries")
        setting = self.run.asked_about(drawn)
        self.arms.read("canary", setting, capability=drawn, probes={})
        arm = self.arms.arm("canary", setting, search, capability=drawn)
        self.arms.confirm(arm, arm.choose((), 0, own))

    def _attack_canaries(self, search: Searching, drawn: Capability) -> None:
        """Attacks the target itself with facts that nobody taught it: what attacks teach a model that never knew."""
        self.run.progress.stage("attacking the target with canaries")
        setting, probes = self.run.asked_about(drawn), self.run.inputs.probes
        deciding = {name: probe for name, probe in probes.items() if probe.decides}
        alone = "reference" not in self.models  # what decides nothing need not be compared with anything
        self.arms.read("canary", setting, capability=drawn, probes=deciding if alone else {})
        arm = self.arms.arm("canary", setting, search, capability=drawn)
        tried = arm.search(search.plan.recipes_alone)
        self.arms.confirm(arm, arm.choose(tried, contended(search.plan.budget), search.winners))

    def _teach(self, search: Searching, drawn: Capability) -> None:
        """Teaches canaries to a copy of the target, and makes of it the decoy that there is no original for."""
        self.run.progress.stage("teaching canaries to a copy")
        target = self.run.setting("target").target
        self.run.make_room(target.module)
        try:
            knows = taught(target, drawn, self.run.inputs.plan.seed)
        except Untaught as error:
            self.arms.note_none("decoy", str(error))
            return
        self.arms.read("taught", open_setting(knows, drawn), capability=drawn, probes={})
        self._break_decoy(search, knows, drawn)

    def _break_decoy(self, search: Searching, whole: Target, about: Capability) -> None:
        """Makes a decoy from a model that knows, and has it broken."""
        self.run.progress.stage("breaking the decoy")
        kind = decoy_kind(search.attacks, about)
        try:
            decoy = make_decoy(kind, whole, about, self.run.inputs.plan.seed)
        except Unmaskable as error:  # judging finds no decoy and says so
            self.arms.note_none("decoy", str(error))
            return
        del whole  # the run may let go of it
        self.run.make_room(decoy.module)
        setting = open_setting(decoy, about)
        self.arms.read("decoy", setting, capability=about, probes={})
        arm = self.arms.arm("decoy", setting, search, capability=about)
        self.arms.break_decoy(arm, search, "original" if "original" in self.models else "taught")

    def _count_examples(self) -> None:
        begun = any(map(keys.with_examples, self.run.evidence.events.by_key))
        why = None if begun else back_without_examples(self.run.evidence.path)
        if why is None:
            count_examples(self.arms, self.references, self.shares[1])
            return
        self.run.progress.note(f"no adversary is given examples: {why}")
        if keys.UNCOUNTED not in self.run.evidence.events:
            self.run.evidence.record(NoneNote(key=keys.UNCOUNTED, error=why))

    def _expect(self, search: Searching) -> None:
        """Tells how many trials will come, but for those with examples."""
        plan, recipes = search.plan, len(search.plan.recipes_alone.recipes)
        for role in ("target", *self.references[:1]):
            self.arms.expect(role, search, plan.budget, min(plan.budget, contended(plan.budget)))
        for role in self.references[1:]:
            self.arms.expect(role, search, 0)
        if self.capability.kind == "language":
            self.arms.expect("canary", search, 0 if self.both else recipes)
        if "original" in self.models or self.capability.kind == "language":
            self.arms.expect("decoy", search, recipes)


def _refuse_others(run: Run) -> None:
    """Refuses modules of the user's own that are not those of a run that is over; files are known by their digests."""
    for role, model in run.inputs.models.items():
        before = run.evidence.events.before(role)
        if not model.files and before is not None:
            refuse_another(role, run.setting(role, trained=False), run.evidence.path, before)
