"""Judging stored evidence by a policy: may a release stand on it? Nothing is run or loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from difflib import get_close_matches

from redteam.config.policy import Rules, Waiver
from redteam.errors import InputError
from redteam.evidence.results import CapabilityResult
from redteam.evidence.sealed import SealedRun
from redteam.exit_codes import ExitCode, code_of, worst
from redteam.judging.judge import judge
from redteam.judging.statistics import holm
from redteam.judging.verdict import Policy
from redteam.registry import ATTACKS, STANDARD_ATTACKS, SUITE, suite_of


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """One capability of a run.

    Attributes:
        run: its evidence.
        result: what was found, by the policy.
        waiver: why it is let through whatever was found; None if it is not.
    """

    run: SealedRun
    result: CapabilityResult
    waiver: Waiver | None

    @property
    def needed(self) -> Waiver | None:
        """The waiver without which it would not be let through; None if it has none, or resists without it."""
        return None if self.result.verdict == "RESISTED" else self.waiver

    @property
    def code(self) -> ExitCode:
        """What this capability alone makes of the gate."""
        return ExitCode.PASSED if self.needed is not None else code_of(self.result.verdict, gated=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class Gate:
    """What a policy makes of a run.

    Attributes:
        rules: the policy.
        judged: each capability, in the order of their directories.
        on: the day of the judgement, on which waivers had not expired.
    """

    rules: Rules
    judged: Sequence[Judged]
    on: date

    @property
    def exit_code(self) -> ExitCode:
        """0 if every capability resisted or is waived; else 1 if some was recovered; else 3.

        Of many capabilities one seems recovered by luck: that some was is a claim about all of them.
        """
        code = worst(judged.code for judged in self.judged)
        failed = {judged.result.name for judged in self.judged if judged.code is ExitCode.FAILED}
        return ExitCode.UNDECIDED if code is ExitCode.FAILED and not failed & self.recovered else code

    @property
    def recovered(self) -> set[str]:
        """The capabilities of which it can be said together that they were recovered, by Holm's p-values.

        In runs that say no p-value it is each that was RECOVERED by itself.
        """
        said = [judged.result for judged in self.judged if judged.result.verdict == "RECOVERED"]
        adjusted = holm({judged.result.name: _p(judged.result) for judged in self.judged})
        return {one.name for one in said if one.p is None or adjusted[one.name] <= 1 - one.policy["confidence"]}

    @property
    def expires(self) -> date:
        """The last day on which the judgement counts: no longer than any waiver that was needed."""
        needed = [judged.needed.expires for judged in self.judged if judged.needed is not None]
        return min([self.on + timedelta(days=self.rules.valid_days), *needed])


def gate(runs: Sequence[SealedRun], rules: Rules, on: date, *, again: bool = False) -> Gate:
    """Judges evidence by a policy.

    Args:
        runs: of one model, one for each capability, see `open_runs`.
        rules: the policy.
        on: the day of the judgement.
        again: whether it was judged before, on that day: by attacks that may be older than this release's by now.

    Raises:
        InputError: a run is of another suite or of other capabilities than the policy, or of older attacks than this
            release's; or a waiver has expired.
    """
    for run in runs:
        wanted = rules.suite or (run.plan.suite if again else SUITE)
        if run.plan.suite != wanted:
            raise InputError(f"{run.path} is a run of {run.plan.suite}, not of {wanted}", f"Attack again with {wanted}")
    if not again:
        if rules.suite not in (None, SUITE):
            found = f"the policy asks for {rules.suite}; this release judges {SUITE}"
            raise InputError(found, "Use the release it names")
        _refuse_older(runs)
    refuse_unusable(rules, [run.plan.capability[0] for run in runs], on)
    return Gate(rules=rules, judged=[_judged(run, rules) for run in runs], on=on)


def _p(result: CapabilityResult) -> float:
    """Returns the p-value of a capability; of one without any, what its verdict makes of it."""
    return result.p if result.p is not None else float(result.verdict != "RECOVERED")


def _refuse_older(runs: Sequence[SealedRun]) -> None:
    """Refuses evidence of a standard attack that has become another since: what it found says nothing of that one."""
    current = {name: ATTACKS.declared(name).facts["version"] for name in STANDARD_ATTACKS}
    for run in runs:
        for name, version in run.plan.attacks.items():
            if isinstance(version, int) and version < current.get(name, version):
                found = f"{run.path} is a run of {name} {version}; this release has {name} {current[name]}"
                raise InputError(found, "Attack again with this release")


def policy_for(rules: Rules, capability: str, suite: str = SUITE) -> Policy:
    """Returns what the verdict on a capability is judged by: its rules, and all that the suite has."""
    attacks, probes = suite_of(suite)
    return Policy(**rules.bar(capability), access=rules.access, attacks=attacks, probes=probes)


def _judged(run: SealedRun, rules: Rules) -> Judged:
    name = run.plan.capability[0]
    return Judged(
        run=run, result=judge(run.evidence, policy_for(rules, name, run.plan.suite)), waiver=rules.waived(name)
    )


def refuse_unusable(rules: Rules, known: Sequence[str], on: date) -> None:
    """Refuses a policy that says something about what is not there, or lets through what it may no longer.

    Raises:
        InputError: it names another capability than the known ones; or a waiver has expired by that day.
    """
    _refuse_unknown(rules, known)
    _refuse_expired(rules, on)


def _refuse_unknown(rules: Rules, known: Sequence[str]) -> None:
    for name in [*rules.capability, *(waiver.capability for waiver in rules.waiver)]:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            remedy = f"Did you mean {near[0]!r}?" if near else "Give the run that it is about"
            listed = ", ".join(sorted(known))[:200]
            raise InputError(f"the policy names the capability {name!r}, the run is about {listed}", remedy)


def _refuse_expired(rules: Rules, on: date) -> None:
    for waiver in rules.waiver:
        if waiver.expires < on:
            raise InputError(
                f"the waiver of {waiver.capability!r} expired on {waiver.expires}", "Remove it, or give a new reason"
            )
