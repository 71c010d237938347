"""What every report tells, in whatever form: one verdict a capability, and one exit code."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from redteam.evidence.certificate import Certificate, Decision
from redteam.evidence.results import CapabilityResult, Results
from redteam.record import Interval

Outcome = Literal["passed", "failed", "undecided", "waived"]
OUTCOMES: dict[str, Outcome] = {"RESISTED": "passed", "RECOVERED": "failed", "INCONCLUSIVE": "undecided"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Told:
    """What was found about a model.

    Attributes:
        model: its name.
        sha256: of its weights, or of what a certificate names of them.
        suite: the protocol.
        found: what was found about each capability, and what the gate makes of it.
        decision: of the gate; None where no policy was asked.
        exit_code: as the command ends that found it.
        limitations: what none of it says.
    """

    model: str
    sha256: str
    suite: str
    found: Sequence[tuple[CapabilityResult, Outcome]]
    decision: Decision | None
    exit_code: int
    limitations: Sequence[str]


def told_by_run(results: Results, limitations: Sequence[str] = ()) -> Told:
    """Returns what a run found by itself, without a policy."""
    return Told(
        model=results.target.name,
        sha256=results.target.sha256,
        suite=results.suite,
        found=[(found, OUTCOMES[found.verdict]) for found in results.capabilities],
        decision=None,
        exit_code=results.exit_code,
        limitations=limitations,
    )


def told_by_certificate(certificate: Certificate) -> Told:
    """Returns what a certificate says."""
    said = certificate.predicate
    target = said.runs[0].models["target"]
    return Told(
        model=target["name"],
        sha256=target["sha256"],
        suite=said.runs[0].plan.suite,
        found=[(run.result, "waived" if run.waiver is not None else OUTCOMES[run.result.verdict]) for run in said.runs],
        decision=said.decision,
        exit_code=said.exit_code,
        limitations=said.limitations,
    )


def decisive(found: CapabilityResult) -> Interval | None:
    """Returns the excess recovery that the verdict rests on; at any utility, where only giving that up recovers.

    None where it is not told, see `open_questions`.
    """
    limit, regardless = found.policy["max_excess_recovery"], found.excess_recovery_any_utility
    if open_questions(found):
        return None
    if found.verdict == "RECOVERED" and found.excess_recovery is not None and found.excess_recovery.low <= limit:
        return regardless
    return found.excess_recovery


def open_questions(found: CapabilityResult) -> Sequence[str]:
    """Returns the flags that leave open whether more is there than came back; () where a figure can be told.

    A small number beside them reads like resistance: "0 %" of a class that no attack was able to reach.
    """
    excess, limit = found.excess_recovery, found.policy["max_excess_recovery"]
    small = excess is not None and excess.low <= limit
    return [flag.name for flag in found.flags] if found.verdict == "INCONCLUSIVE" and small else ()


def stand_out(sides: tuple[float, float], chance: float) -> str:
    """Returns how many samples stand out before any attack, and on which side."""
    above, below = sides
    told = (
        f"before any attack {above:.0%} because the model is surer of them than models that never saw them, {below:.0%}"
    )
    forgotten = "; it forgot some too well, which tells them too" if below > above and below > chance else ""
    return f"{told} because it is less sure; {chance / 2:.1%} each by chance{forgotten}"


def share(interval: Interval | None) -> str:
    """Returns an interval of shares in words: "8.0% (3.9% to 14.5%)"."""
    if interval is None:
        return "not told"
    return f"{interval.estimate:.1%} ({interval.low:.1%} to {interval.high:.1%})"
