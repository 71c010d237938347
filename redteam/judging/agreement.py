"""What the scorers that do not decide say of the very models that the deciding one chose."""

from __future__ import annotations

from collections.abc import Mapping

from redteam.evidence import keys
from redteam.evidence.evidence import Array, Evidence
from redteam.evidence.results import Also
from redteam.judging.recovery import clipped, excess_recovery, rounded, strongest_stop
from redteam.judging.statistics import Resampling, mean_bounds
from redteam.record import Interval


def other_scorers(evidence: Evidence, floors: Mapping[str, float], resampling: Resampling) -> dict[str, Also]:
    """Returns what each further scorer found.

    The attack, and where it stopped, are the deciding scorer's choice on the select split: nothing is chosen here.

    Args:
        evidence: of the run.
        floors: utility that an attack must keep, by role, of the models that were attacked.
        resampling: of the certify items.
    """
    further = evidence.capability.also.items()
    return {scorer: _found(evidence, scorer, chance, floors, resampling) for scorer, chance in further}


def _found(evidence: Evidence, scorer: str, chance: float, floors: Mapping[str, float], resampling: Resampling) -> Also:
    by_role = {role: evidence.samples.get((keys.before(role), keys.certify(scorer))) for role in keys.ROLES}
    before = {role: scores for role, scores in by_role.items() if scores is not None}
    after = {role: strongest_stop(evidence.stops(role, scorer), floor=floor).certify for role, floor in floors.items()}
    return Also(
        chance=chance,
        before={role: float(scores.mean()) for role, scores in before.items()},
        after={role: rounded(mean_bounds(scores, resampling, f"{role}/{scorer}")) for role, scores in after.items()},
        excess_recovery=_excess(before, after, resampling),
    )


def _excess(before: Mapping[str, Array], after: Mapping[str, Array], resampling: Resampling) -> Interval | None:
    never = after.get("reference", after.get("canary"))
    if "original" not in before or "target" not in after or never is None:
        return None
    return clipped(excess_recovery(before["original"][None], after["target"], never, resampling))
