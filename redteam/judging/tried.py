"""What the search found with every attack of the suite."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from redteam.evidence.results import Tried
from redteam.judging.flags import inert, scored
from redteam.judging.reading import Evidence, Row


def tried_attacks(evidence: Evidence, floors: Mapping[str, float]) -> dict[str, Tried]:
    """Returns what each attack that was to be tried found, in the order of the suite.

    Args:
        evidence: of a run; those of older releases did not record which attacks were to be tried.
        floors: role -> utility that an attack on that model must keep.
    """
    unfit = unfit_attacks(evidence)
    names = [name for name in evidence.facts["capability"].get("attacks", ()) if name not in unfit]
    return {name: _tried(name, evidence, floors) for name in names}


def unfit_attacks(evidence: Evidence) -> dict[str, str]:
    """Returns the attacks that need what the target lacks, with the reason."""
    reasons: dict[str, str] = evidence.facts.get("unfit", {}).get("reasons", {})
    return reasons


def _tried(name: str, evidence: Evidence, floors: Mapping[str, float]) -> Tried:
    rows = {role: [row for row in evidence.search(role) if row["attack"] == name] for role in floors}
    never = "reference" if "reference" in floors else "canary"
    return Tried(
        trials=len(rows["target"]),
        failed=sum(not scored(row) for row in rows["target"]),
        best=_best(rows["target"], floors["target"]),
        reference=_best(rows.get(never, ()), floors.get(never, 0.0)),
        idle=_idle(rows["target"]),
    )


def _idle(rows: Sequence[Row]) -> str | None:
    """Returns why these trials prove nothing; None if one of them was a working attack."""
    if not rows:
        return "not tried"
    why = inert(rows)
    return None if why is None else f"no trial {why}"


def _best(rows: Sequence[Row], floor: float) -> float | None:
    """Returns the highest select score after at least one step at which utility held; None where it never did."""
    held = [
        point["select"]
        for row in rows
        if row["state"] == "complete"
        for point in row["points"]
        if point["steps"] > 0 and point["utility"] >= floor
    ]
    return round(max(held), 6) if held else None
