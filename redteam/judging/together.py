"""Several capabilities of one model: in what order they are told, and how the command ends."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from redteam.evidence.results import CapabilityResult, Results, TargetResult
from redteam.evidence.sealed import SealedRun, open_runs
from redteam.exit_codes import code_of, worst
from redteam.judging.judge import judge
from redteam.judging.reading import read_evidence

ORDER = ("RECOVERED", "INCONCLUSIVE", "RESISTED")  # what most needs looking at first


def together(found: Sequence[Results]) -> Results:
    """Returns the results of several runs of one model as one, the most recovered first."""
    capabilities = sorted((result for results in found for result in results.capabilities), key=rank)
    return found[0].model_copy(
        update={"capabilities": capabilities, "exit_code": int(worst(results.exit_code for results in found))}
    )


def judged_again(path: Path) -> Results:
    """Judges the evidence of a run that is over, of one capability or of several, as `redteam attack` did.

    Raises:
        InputError: it is not over, or its files were changed since.
    """
    return together([_judged(run) for run in open_runs(path)])


def _judged(run: SealedRun) -> Results:
    result = judge(run.path)
    target = read_evidence(run.path).facts["models"]["given"]["target"]
    return Results(
        suite=run.plan.suite,
        target=TargetResult(name=target["name"], sha256=target["sha256"]),
        capabilities=[result],
        exit_code=code_of(result.verdict, gated=False),
    )


def rank(result: CapabilityResult) -> tuple[int, float, str]:
    """Orders by verdict, then by how much came back; what is not defined last."""
    excess = result.excess_recovery
    return ORDER.index(result.verdict), -excess.estimate if excess is not None else 2.0, result.name
