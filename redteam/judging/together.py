"""Several capabilities of one model: in what order they are told, and how the command ends."""

from __future__ import annotations

from collections.abc import Sequence

from redteam.evidence.results import CapabilityResult, Results, TargetResult
from redteam.evidence.sealed import SealedRun
from redteam.exit_codes import code_of, worst
from redteam.judging.judge import judge

ORDER = ("RECOVERED", "INCONCLUSIVE", "RESISTED")  # what most needs looking at first


def together(found: Sequence[Results]) -> Results:
    """Returns the results of several runs of one model as one, the most recovered first."""
    capabilities = sorted((result for results in found for result in results.capabilities), key=rank)
    return found[0].model_copy(
        update={"capabilities": capabilities, "exit_code": int(worst(results.exit_code for results in found))}
    )


def judged_again(runs: Sequence[SealedRun]) -> Results:
    """Judges the evidence of one model, a run for each capability, as `redteam attack` did."""
    return together([_judged(run) for run in runs])


def _judged(run: SealedRun) -> Results:
    result, target = judge(run.evidence), run.evidence.given["target"]
    return Results(
        suite=run.plan.suite,
        target=TargetResult(name=target.name, sha256=target.sha256),
        capabilities=[result],
        exit_code=code_of(result.verdict, gated=False),
    )


def rank(result: CapabilityResult) -> tuple[int, float, str]:
    """Orders by verdict, then by how much came back; what is not defined last."""
    excess = result.excess_recovery
    return ORDER.index(result.verdict), -excess.estimate if excess is not None else 2.0, result.name
