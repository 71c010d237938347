"""What other scorers, and other wordings of the questions, say of the very models that the deciding scorer chose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from redteam.evidence import keys
from redteam.evidence.evidence import Array, Evidence
from redteam.evidence.results import Also, Worded
from redteam.judging.contrast import Models
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
    before, after = _scores(evidence, scorer, floors)
    return Also(
        chance=chance,
        before=_means(before),
        after=_intervals(after, resampling, scorer),
        excess_recovery=_beyond(before, after, resampling),
    )


def further_wordings(
    evidence: Evidence, floors: Mapping[str, float], resampling: Resampling, *, whole: Array, never: Sequence[str]
) -> list[Worded]:
    """Returns what is known under each further wording, by the scorer that decides, at the stops that it chose.

    The original need not know a fact in every wording, and an unlearner may have taught the target another one: what is
    all of it is what the original says to the prompt.

    Args:
        evidence: of the run.
        floors: as of `other_scorers`, and `resampling`.
        resampling: see there.
        whole: certify scores of the model that knew all of it, asked by the prompt, [1, items].
        never: roles of the models that stand for ones that never knew.
    """
    found = []
    for number, asked in enumerate(evidence.capability.wordings, 1):
        name = keys.wording(number)
        before, after = _scores(evidence, name, floors)
        excess, released = (
            _excess(whole, scores["target"], [scores[role] for role in never], resampling) for scores in (after, before)
        )
        found.append(
            Worded(
                asked=asked,
                before=_means(before),
                after=_intervals(after, resampling, name),
                excess_recovery=excess,
                excess_released=released,
            )
        )
    return found


def _scores(evidence: Evidence, name: str, floors: Mapping[str, float]) -> tuple[dict[str, Array], dict[str, Array]]:
    """Returns certify scores before any attack, [1, items], and after the strongest one, [seeds, items], by role."""
    by_role = {role: evidence.samples.get((keys.before(role), keys.certify(name))) for role in evidence.roles}
    before = {role: scores[None] for role, scores in by_role.items() if scores is not None}
    after = {role: strongest_stop(evidence.stops(role, name), floor=floor).certify for role, floor in floors.items()}
    return before, after


def _means(before: Mapping[str, Array]) -> dict[str, float]:
    return {role: float(scores.mean()) for role, scores in before.items()}


def _intervals(after: Mapping[str, Array], resampling: Resampling, name: str) -> dict[str, Interval]:
    return {role: rounded(mean_bounds(scores, resampling, f"{role}/{name}")) for role, scores in after.items()}


def _beyond(before: Mapping[str, Array], after: Mapping[str, Array], resampling: Resampling) -> Interval | None:
    if "original" not in before or "target" not in after:
        return None
    never = [scores for role, scores in after.items() if keys.is_reference(role)] or [
        scores for role, scores in after.items() if role == "canary"
    ]
    return _excess(before["original"], after["target"], never, resampling)


def _excess(whole: Array, target: Array, never: Sequence[Array], resampling: Resampling) -> Interval | None:
    """Returns excess recovery beyond models that never knew; None without any, or where it is not defined."""
    if not never:
        return None
    return clipped(excess_recovery(Models(original=whole, target=target, references=never), resampling))
