"""What `redteam attack --dry-run` says: what would be run, and what it could show."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from rich.console import Console
from rich.table import Table
from rich.text import Text

from redteam.errors import one_line
from redteam.judging.outlook import Outlook


def print_planned(many: Sequence[Outlook], console: Console) -> None:
    """Prints what would be run for each capability."""
    for outlook in many:
        console.print(_table(outlook))


def planned_json(many: Sequence[Outlook]) -> str:
    """Returns the same for programs."""
    rows = [asdict(outlook) | {"minimum_detectable_effect": outlook.detectable} for outlook in many]
    return json.dumps({"capabilities": rows}, indent=2) + "\n"


def _table(outlook: Outlook) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(style="dim")
    table.add_column()
    items = ", ".join(f"{count} {split}" for split, count in outlook.items.items())
    searched = "target and reference" if "reference" in outlook.given else "target"
    earlier = f", {outlook.earlier} of them done" if outlook.earlier else ""
    rows = [
        ("target", outlook.target),
        ("capability", outlook.capability),
        ("items", items),
        ("chance", f"{outlook.chance:.1%}"),
        ("power", outlook.power),
        ("budget", f"{outlook.budget} search trials on {searched}{earlier}; then the best again, and confirmations"),
        ("attacks", ", ".join(outlook.attacks)),
        *(("skipped", f"{name}: {why}") for name, why in outlook.skipped.items()),
        ("given", ", ".join(outlook.given) or "no other model"),
        *(("note", remark) for remark in outlook.remarks),
    ]
    for name, value in rows:
        table.add_row(name, Text(one_line(value), style="yellow" if name == "note" else ""))
    return table
