"""What each probe read from the models of a run, one line each."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from redteam.errors import one_line
from redteam.evidence.results import CapabilityResult, Probed


def probes_table(capability: CapabilityResult) -> Table | None:
    """Returns what the probes read from each model, and of shuffled answers; None where none read anything."""
    if not capability.probes:
        return None
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("read by the probe", min_width=22)
    for name in ("original", "target", "never knew", "shuffled"):
        table.add_column(name, justify="right")
    table.add_column("of it in target", justify="right")
    for name, probed in capability.probes.items():
        read = probed.accuracy
        never = read.get("reference", read.get("canary"))  # canaries stand for a reference that was not given
        scores = [_score(score) for score in (read.get("original"), read.get("target"), never)]
        table.add_row(Text(one_line(name)), *scores, _score(probed.control.get("target")), _leakage(probed))
    if not all(probed.decides for probed in capability.probes.values()):
        table.caption, table.caption_justify = "(in brackets: the probe was handed the original)", "left"
    return table


def _leakage(probed: Probed) -> Text:
    """Returns the share that the target still shows; in brackets where the probe was handed the original."""
    if probed.leakage is None:
        return Text("")
    share = f"{min(1.0, max(0.0, probed.leakage.estimate)):.0%}"
    return Text(share if probed.decides else f"({share})", "" if probed.decides else "dim")


def _score(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
