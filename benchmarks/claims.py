"""A claim is a measured number beside the limit it must keep."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from redteam.evidence.directory import environment

RESULTS = Path("results/benchmarks")


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """One number and its limit.

    Attributes:
        name: what was measured.
        measured: the number.
        must: "<=" or ">=" the limit.
        limit: see `must`.
    """

    name: str
    measured: float
    must: Literal["<=", ">="]
    limit: float

    @property
    def holds(self) -> bool:
        """Whether the limit is kept; NaN keeps none."""
        return self.measured <= self.limit if self.must == "<=" else self.measured >= self.limit


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """What a benchmark found.

    Attributes:
        title: one line.
        claims: numbers with limits.
        rows: numbers without, one mapping a table row; all rows have the same keys.
        setting: what was run.
        figure: draws the rows, given them and where.
    """

    title: str
    claims: Sequence[Claim]
    rows: Sequence[dict[str, Any]] = ()
    setting: dict[str, Any] = field(default_factory=dict)
    figure: Callable[[Sequence[dict[str, Any]], Path], None] | None = None


def publish(name: str, measured: Measured, console: Console) -> bool:
    """Prints a benchmark, writes it to `results/benchmarks/NAME.json`, and returns whether every claim holds.

    A figure is drawn beside it, as `NAME.svg`.
    """
    console.print(Text(f"\n{measured.title}", style="bold"))
    if measured.rows:
        table = Table(box=None, pad_edge=False, header_style="dim")
        for key in measured.rows[0]:
            table.add_column(key)
        for row in measured.rows:
            table.add_row(*(Text(_short(value)) for value in row.values()))
        console.print(table)
    for claim in measured.claims:
        mark = Text("holds  ", style="green") if claim.holds else Text("BROKEN ", style="bold red")
        console.print(Text.assemble(mark, f"{claim.name}: {claim.measured:.3g} {claim.must} {claim.limit:g}"))
    content = {
        "title": measured.title,
        "setting": {**measured.setting, "environment": environment()},
        "claims": [_content(claim) for claim in measured.claims],
        "rows": list(measured.rows),
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    if measured.figure is not None:
        measured.figure(measured.rows, RESULTS / f"{name}.svg")
    return all(claim.holds for claim in measured.claims)


def _content(claim: Claim) -> dict[str, Any]:
    """Returns what a file says of a claim; what is no number (never reached, not measured) is null there."""
    measured = claim.measured if isfinite(claim.measured) else None
    return {**asdict(claim), "measured": measured, "holds": claim.holds}


def _short(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(_short(part) for part in value)}]"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
