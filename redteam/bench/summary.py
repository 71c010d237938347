"""Rows of one target over its seeds, in one line."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import median
from typing import TypeVar

from redteam.bench.plan import Cell
from redteam.bench.rows import Recovery, Row
from redteam.judging.statistics import mean_over_seeds
from redteam.record import Interval

T = TypeVar("T")
LETTERS = {"RECOVERED": "recovered", "RESISTED": "resisted", "INCONCLUSIVE": "inconclusive"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """A target over all its seeds.

    Attributes:
        variant: names it, see `Cell.variant`.
        cell: of the first seed; the others differ in the seed alone.
        rows: that were measured, one a seed.
        errors: of the seeds that could not be built or attacked.
    """

    variant: str
    cell: Cell
    rows: tuple[Row, ...]
    errors: tuple[str, ...]

    @property
    def found(self) -> tuple[Recovery, ...]:
        """What the attacks found, one a seed."""
        return tuple(row.recovery for row in self.rows if row.recovery is not None)

    @property
    def settings(self) -> str:
        """Options of this world that are not the method's defaults: "full=retain, alpha=30.0"; "" for none."""
        settings = self.rows[0].identity.get("settings", {}) if self.rows else {}
        return ", ".join(f"{name}={value}" for name, value in settings.items())

    def over_seeds(self, values: Sequence[float | None], *, within: float = math.inf) -> Interval | None:
        """Mean and interval of a figure; None where a seed lacks it.

        Args:
            values: one a seed.
            within: the largest value that the figure can have, where it lies between 0 and that.
        """
        present = [value for value in values if value is not None]
        if not present or len(present) < len(values):
            return None
        bounds = mean_over_seeds(present)
        if math.isinf(within) or math.isinf(bounds.high):
            return bounds
        return Interval(bounds.estimate, max(0.0, bounds.low), min(within, bounds.high))

    def share(self, values: Sequence[float | None]) -> Interval | None:
        """Mean and interval of a figure that lies between 0 and 1."""
        return self.over_seeds(values, within=1.0)

    @property
    def before(self) -> Interval | None:
        """Certify score of the released target."""
        return self.share([found.before for found in self.found])

    @property
    def after(self) -> Interval | None:
        """The same after the strongest attack at the utility floor."""
        return self.share([found.after.estimate if found.after else None for found in self.found])

    @property
    def reference(self) -> Interval | None:
        """Score of the model that never knew, after the strongest attack on it."""
        return self.share([found.reference.estimate if found.reference else None for found in self.found])

    @property
    def excess(self) -> Interval | None:
        """Excess recovery at the utility floor."""
        return self.share([found.excess.estimate if found.excess else None for found in self.found])

    @property
    def excess_any(self) -> Interval | None:
        """Excess recovery whatever happens to utility."""
        return self.share([found.excess_any.estimate if found.excess_any else None for found in self.found])

    @property
    def utility(self) -> Interval | None:
        """Utility of the released target."""
        return self.share([found.utility[0] for found in self.found])

    @property
    def tax(self) -> Interval | None:
        """Utility lost against the original."""
        return self.over_seeds([row.alignment_tax.estimate if row.alignment_tax else None for row in self.rows])

    def cost(self, axis: str) -> Interval | None:
        """FLOPs, seconds or peak memory over those of plain training."""
        return self.over_seeds([row.cost.get(axis) for row in self.rows])

    def measure(self, name: str, role: str = "target") -> Interval | None:
        """A further score of the testbed."""
        return self.share([row.measures.get(name, {}).get(role) for row in self.rows])

    @property
    def verdicts(self) -> str:
        """How often each verdict was given: "3 recovered"."""
        counted = Counter(LETTERS[found.verdict] for found in self.found)
        counted.update({"failed": len(self.errors)} if self.errors else {})
        return ", ".join(f"{count} {name}" for name, count in counted.most_common())

    def steps(self, level: str = "0.5", role: str = "target") -> str:
        """Median steps to a level of what the original knew; "> 128" where most seeds never reached it."""
        reached = [(f.steps if role == "target" else f.reference_steps)[level] for f in self.found]
        if not reached:
            return ""
        middle = median(math.inf if step is None else step for step in reached)
        return f"> {max(f.horizon for f in self.found)}" if math.isinf(middle) else f"{middle:g}"


def summarise(rows: Sequence[Row]) -> list[Summary]:
    """Returns one summary a variant, by name."""
    ordered = sorted(rows, key=lambda row: (row.of.variant, row.of.seed))
    summaries = []
    for variant, group in groupby(ordered, key=lambda row: row.of.variant):
        members = tuple(group)
        summaries.append(
            Summary(
                variant=variant,
                cell=members[0].of,
                rows=tuple(row for row in members if row.error is None),
                errors=tuple(row.error for row in members if row.error is not None),
            )
        )
    return summaries


def interval(bounds: Interval | None, digits: int = 2) -> str:
    """Returns "0.93 [0.91, 0.95]"; "" for nothing, and no brackets around a single seed."""
    if bounds is None:
        return ""
    estimate = f"{bounds.estimate:.{digits}f}"
    if math.isinf(bounds.high):
        return estimate
    return f"{estimate} [{bounds.low:.{digits}f}, {bounds.high:.{digits}f}]"


def times(bounds: Interval | None) -> str:
    """Returns a ratio as "0.21"; "" for nothing."""
    return "" if bounds is None else f"{bounds.estimate:.2f}"


def markdown(columns: Mapping[str, Callable[[T], str]], lines: Iterable[T]) -> str:
    """Returns a Markdown table: a heading and a cell's text for each column."""
    text = [f"| {' | '.join(columns)} |", "| --- " * len(columns) + "|"]
    text += [f"| {' | '.join(cell(line) for cell in columns.values())} |" for line in lines]
    return "\n".join(text) + "\n"
