"""What each attack of the suite found, one line each, the strongest first."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from redteam.errors import one_line
from redteam.evidence.results import CapabilityResult, Tried

WIDTH = 20  # cells of a bar that stands for a score of 1


def attacks_table(capability: CapabilityResult) -> Table | None:
    """Returns the best select score of every attack on the target and on the reference; None for a single attack."""
    if len(capability.tried) < 2:
        return None
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("searched with", min_width=22)
    table.add_column("trials", justify="right")
    table.add_column("target", justify="right")
    table.add_column("never knew", justify="right")
    table.add_column("")
    for name, tried in sorted(capability.tried.items(), key=lambda pair: -(pair[1].best or 0.0)):
        table.add_row(
            Text(one_line(name)), str(tried.trials), _score(tried.best), _score(tried.reference), _told(tried)
        )
    return table


def _told(tried: Tried) -> Text:
    """Returns a bar, or why there is none to be drawn."""
    if tried.idle is not None:
        return Text(one_line(tried.idle), "yellow")
    if tried.best is None:
        return Text("no setting kept utility", "dim")
    return Text("▇" * round(WIDTH * tried.best), "red")


def _score(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
