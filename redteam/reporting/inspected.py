"""What `redteam inspect` prints: what a checkpoint is, and what an attack on it lacks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from redteam.errors import one_line

SAFE = "holds tensors and text alone; nothing in it was run"


def print_inspected(inspected: Mapping[str, Any], console: Console) -> None:
    """Prints a row for each thing that is known, then what is missing or the next command.

    Args:
        inspected: what `Inspected.as_json` returns.
        console: where to.
    """
    path = one_line(inspected["path"])
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column(no_wrap=True, style="dim")
    table.add_column(overflow="fold")
    for title, text in _rows(inspected):
        table.add_row(title, Text(one_line(text)))
    console.print(Text(path, style="bold"))
    console.print(table)
    console.print()
    if not inspected["missing"]:
        console.print(Text(f"Next: redteam attack {path} --budget 100"), soft_wrap=True)
        return
    console.print(Text("To attack it"))
    for lack in inspected["missing"]:
        said = Text.assemble("  ", one_line(lack["found"]), ". ", (one_line(lack["remedy"]), "bold"))
        console.print(said, soft_wrap=True)


def _rows(inspected: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    files = f" in {inspected['files']} files" if inspected["files"] > 1 else ""
    yield "form", f"{inspected['form']}, {decimal(inspected['bytes'])}{files}"
    yield "sha256", inspected["sha256"] or "not computed, it takes a while: --digest"
    elements = inspected["elements"]
    total = sum(elements.values())
    shares = ", ".join(f"{dtype} {count / max(1, total):.0%}" for dtype, count in elements.items())
    yield "weights", f"{total:,} in {len(inspected['tensors'])} tensors: {shares}"
    yield "safety", SAFE
    architecture, source = inspected["architecture"], inspected["described_by"]
    if architecture is not None:
        yield "architecture", f"{architecture} ({source})" if source else f"perhaps {architecture}"
    if inspected["tokenizer"] is not None:
        yield "tokenizer", inspected["tokenizer"]
    if inspected["method"] is not None:
        yield "made by", f"{inspected['method']}, as its manifest says"
