"""What each attack of the suite found, one line each, the strongest first."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from redteam.errors import one_line
from redteam.evidence.results import CapabilityResult, Tried

WIDTH, BESIDE = 20, 12  # cells of a bar that stands for a score of 1; beside two more columns, of 80 cells in all


def attacks_table(capability: CapabilityResult) -> Table | None:
    """Returns the best select score of every attack on the target and on the reference; None for a single attack.

    Where examples of what was removed are counted, the same of the adversary who has a few of them stands beside it.
    """
    if len(capability.tried) < 2:
        return None
    counted = bool(capability.with_examples)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("searched with", min_width=13 if counted else 22)
    for title in ("trials", "target", "never knew", *(("+ examples", "never knew") if counted else ())):
        table.add_column(title, justify="right")
    table.add_column("")
    for name, tried in sorted(capability.tried.items(), key=lambda pair: -(pair[1].most or 0.0)):
        scores = [tried.best, tried.reference]
        scores += [tried.best_with_examples, tried.reference_with_examples] if counted else []
        table.add_row(
            Text(one_line(name)), str(tried.trials), *map(_score, scores), _told(tried, BESIDE if counted else WIDTH)
        )
    return table


def _told(tried: Tried, width: int) -> Text:
    """Returns a bar, or why there is none to be drawn."""
    if tried.idle is not None:
        return Text(one_line(tried.idle), "yellow")
    if tried.most is None:
        return Text("no setting kept utility", "dim")
    return Text("▇" * round(width * tried.most), "red")


def _score(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
