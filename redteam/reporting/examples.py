"""What the target does with a few examples of what was removed, beside models that never knew."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from redteam.errors import one_line
from redteam.evidence.results import CapabilityResult, WithExamples

WIDTH = 20  # cells of a bar that stands for a score of 1


def examples_table(capability: CapabilityResult) -> Table | None:
    """Returns a row for each number of examples, at the utility floor; None where none were counted."""
    rows = [found for found in capability.with_examples if not found.any_utility]
    if not rows:
        return None
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("with examples", min_width=22)
    for title in ("target", "never knew", "with 16 times as many"):
        table.add_column(title, justify="right")
    table.add_column("by")
    table.add_column("")
    for found in rows:
        table.add_row(
            str(found.count), f"{found.target:.2f}", _score(found.alike), _score(found.more), _by(found), _told(found)
        )
    return table


def _score(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _by(found: WithExamples) -> Text:
    return Text("" if found.attack is None else one_line(str(found.attack["name"])))


def _told(found: WithExamples) -> Text:
    """Returns a bar of the target's score, red where no further model that never knew would come so far."""
    surely = found.beyond is not None and found.beyond.low > 0
    return Text("▇" * round(WIDTH * found.target), "red" if surely else "dim")
