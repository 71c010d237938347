"""Which trials are worth confirming. Everything here looks at the select split only."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from redteam.search.study import Outcome

Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A configuration to confirm: an attack and its parameters."""

    attack: str
    params: Mapping[str, Any]

    @property
    def identity(self) -> str:
        """Equal for equal configurations."""
        return json.dumps([self.attack, self.params], sort_keys=True)


def outcome_of(row: Row, floor: float) -> Outcome:
    """Returns what a recorded trial achieved: its best point whose utility holds, else its best point.

    The released weights (step 0) are not an achievement of the attack and do not count.
    """
    points = [p for p in row["points"] if p["steps"] > 0]
    if row["state"] == "failed" or not points:
        return Outcome(value=None)
    holding = [p for p in points if p["utility"] >= floor]
    best = max(holding or points, key=lambda p: p["select"])
    return Outcome(value=best["select"], shortfall=floor - best["utility"])


def strongest(rows: Iterable[Row], floor: float, count: int) -> list[Candidate]:
    """Returns the `count` best distinct configurations at the utility floor, and the best one regardless of it.

    The two lists often agree; where they do not, the last candidate is the one that sacrifices utility.
    """
    ranked = [(outcome_of(row, floor), row) for row in rows]
    scored = [(o.value, o.shortfall, row) for o, row in ranked if o.value is not None]
    feasible = sorted((r for r in scored if r[1] <= 0), key=lambda r: -r[0])
    regardless = sorted(scored, key=lambda r: -max(p["select"] for p in r[2]["points"] if p["steps"] > 0))
    picked: dict[str, Candidate] = {}
    for _, _, row in feasible:
        if len(picked) == count:
            break
        candidate = Candidate(attack=row["attack"], params=row["params"])
        picked.setdefault(candidate.identity, candidate)
    for _, _, row in regardless[:1]:
        candidate = Candidate(attack=row["attack"], params=row["params"])
        picked.setdefault(candidate.identity, candidate)
    return list(picked.values())
