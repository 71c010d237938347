"""What `redteam inspect` prints: what a checkpoint is, and what an attack on it lacks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from redteam.checkpoints.inspect import Inspected
from redteam.errors import one_line

SAFE = "holds tensors and text alone; nothing in it was run"


def print_inspected(inspected: Inspected, console: Console) -> None:
    """Prints a row for each thing that is known, then what is missing or the next command."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column(no_wrap=True, style="dim")
    table.add_column(overflow="fold")
    for title, text in _rows(inspected):
        table.add_row(title, Text(one_line(text)))
    console.print(Text(one_line(str(inspected.path)), style="bold"))
    console.print(table)
    console.print()
    if not inspected.missing:
        console.print(Text(f"Next: redteam attack {one_line(str(inspected.path))} --budget 100"), soft_wrap=True)
        return
    console.print(Text("To attack it"))
    for what, remedy in inspected.missing:
        console.print(Text.assemble("  ", one_line(what), ". ", (one_line(remedy), "bold")), soft_wrap=True)


def as_json(inspected: Inspected) -> dict[str, Any]:
    """Returns all that is known, tensors by name included, as plain data."""
    return {
        "path": str(inspected.path),
        "form": inspected.form,
        "bytes": inspected.size,
        "files": inspected.files,
        "sha256": inspected.sha256,
        "elements": dict(inspected.elements),
        "architecture": inspected.architecture,
        "described_by": inspected.described_by,
        "tokenizer": inspected.tokenizer,
        "method": inspected.method,
        "missing": [{"found": found, "remedy": remedy} for found, remedy in inspected.missing],
        "tensors": {name: [entry.dtype, list(entry.shape)] for name, entry in inspected.tensors.items()},
    }


def _rows(inspected: Inspected) -> Iterator[tuple[str, str]]:
    files = f" in {inspected.files} files" if inspected.files > 1 else ""
    yield "form", f"{inspected.form}, {decimal(inspected.size)}{files}"
    yield "sha256", inspected.sha256 or "not computed, it takes a while: --digest"
    elements = inspected.elements
    shares = ", ".join(f"{dtype} {count / max(1, elements.total()):.0%}" for dtype, count in elements.most_common())
    yield "weights", f"{elements.total():,} in {len(inspected.tensors)} tensors: {shares}"
    yield "safety", SAFE
    if inspected.architecture is not None:
        source = inspected.described_by
        yield "architecture", f"{inspected.architecture} ({source})" if source else f"perhaps {inspected.architecture}"
    if inspected.tokenizer is not None:
        yield "tokenizer", inspected.tokenizer
    if inspected.method is not None:
        yield "made by", f"{inspected.method}, as its manifest says"
