"""What `redteam attack --dry-run` says: what would be run, and what it could show."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from rich.console import Console
from rich.table import Table
from rich.text import Text

from redteam.errors import one_line
from redteam.judging.preview import RunPreview


def print_previews(many: Sequence[RunPreview], console: Console) -> None:
    """Prints what would be run for each capability."""
    for preview in many:
        console.print(_table(preview))


def previews_json(many: Sequence[RunPreview]) -> str:
    """Returns the same for programs."""
    rows = [asdict(preview) | {"minimum_detectable_effect": preview.detectable} for preview in many]
    return json.dumps({"capabilities": rows}, indent=2) + "\n"


def _table(preview: RunPreview) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(style="dim")
    table.add_column()
    items = ", ".join(f"{count} {split}" for split, count in preview.items.items())
    searched = "target and reference" if "reference" in preview.given else "target"
    earlier = f", {preview.earlier} of them done" if preview.earlier else ""
    rows = [
        ("target", preview.target),
        ("capability", preview.capability),
        ("items", items),
        ("chance", f"{preview.chance:.1%}"),
        ("power", preview.power),
        ("budget", f"{preview.budget} search trials on {searched}{earlier}; then the best again, and confirmations"),
        ("attacks", ", ".join(preview.attacks)),
        *(("skipped", f"{name}: {why}") for name, why in preview.skipped.items()),
        ("given", ", ".join(preview.given) or "no other model"),
        *(("note", remark) for remark in preview.remarks),
    ]
    for name, value in rows:
        table.add_row(name, Text(one_line(value), style="yellow" if name == "note" else ""))
    return table
