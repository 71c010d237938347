"""What `redteam score` prints: what each model scores, in the terminal and as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from rich.console import Console
from rich.table import Table
from rich.text import Text

from redteam.errors import one_line
from redteam.evidence.scored import CapabilityScores
from redteam.record import Interval
from redteam.reporting.console import told_role


def print_scored(found: Sequence[CapabilityScores], console: Console) -> None:
    """Prints a table for each capability, with a row for each model."""
    for one in found:
        items, facts = one.items, one.facts
        about = f"{items} held-out items about {facts} facts or entities  ·  {one.scorer}, chance {one.chance:.3f}"
        console.print(Text.assemble((one_line(one.name), "bold"), "  ", (about, "dim")), soft_wrap=True)
        console.print(_table(one), "")
    console.print(Text("A low score is no evidence of removal. Next: redteam attack", style="dim"))


def scored_json(found: Sequence[CapabilityScores]) -> str:
    """Returns the same for programs."""
    return json.dumps({"capabilities": [asdict(one) for one in found]}, indent=2) + "\n"


def _table(found: CapabilityScores) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    also = list(found.models[0].also)
    for title in ("score of the", "model", "removed", *map(one_line, also), "utility"):
        table.add_column(title)
    for model in found.models:
        scores = (model.score, *(model.also[name] for name in also), model.utility)
        table.add_row(told_role(model.role), Text(one_line(model.name)), *map(_bounds, scores))
    return table


def _bounds(interval: Interval) -> str:
    return f"{interval.estimate:.2f}  [{interval.low:.2f}, {interval.high:.2f}]"
