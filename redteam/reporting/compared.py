"""Two runs side by side, in the terminal and as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from rich.console import Console
from rich.table import Table
from rich.text import Text

from redteam.errors import one_line
from redteam.judging.compare import Compared
from redteam.reporting.told import share

COLOURS = {"better": "green", "no worse": "green", "worse": "red", "undecided": "yellow"}


def print_compared(found: Sequence[Compared], console: Console) -> None:
    """Prints a table, and for each capability why."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for title in ("capability", "excess recovery: old", "new", "difference", ""):
        table.add_column(title)
    for one in found:
        table.add_row(
            Text(one_line(one.name)),
            share(one.old.excess_recovery),
            share(one.new.excess_recovery),
            _signed(one),
            Text(one.change, style=COLOURS[one.change]),
        )
    console.print(table)
    for one in found:
        console.print(Text(f"{one_line(one.name)}: {one.change}, {one.reason}."))
        if one.waiver is not None:
            told = f"{one_line(one.name)}: waived until {one.waiver.expires}: {one_line(one.waiver.reason)}"
            console.print(Text(told, style="yellow"))


def compared_json(found: Sequence[Compared], code: int) -> str:
    """Returns the same for programs: the whole results of both, and what follows."""
    rows = [
        asdict(one)
        | {"old": one.old.model_dump(mode="json"), "new": one.new.model_dump(mode="json")}
        | {"waiver": None if one.waiver is None else one.waiver.model_dump(mode="json")}
        | {"difference": None if one.difference is None else asdict(one.difference)}
        for one in found
    ]
    return json.dumps({"capabilities": rows, "exit_code": code}, indent=2) + "\n"


def _signed(one: Compared) -> str:
    if one.difference is None:
        return "not defined"
    return f"{one.difference.estimate:+.1%} ({one.difference.low:+.1%} to {one.difference.high:+.1%})"
