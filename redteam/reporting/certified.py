"""What a gate decided, and whether a certificate follows from its evidence, in the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from redteam.errors import one_line
from redteam.evidence.certificate import Certificate, CertifiedRun
from redteam.reporting.console import COLOURS
from redteam.reporting.told import decisive

DECIDED = {"passed": "green", "failed": "red", "undecided": "yellow"}
SAYS = {"RESISTED": "passes", "RECOVERED": "fails", "INCONCLUSIVE": "undecided"}


def print_certificate(certificate: Certificate, path: Path, console: Console) -> None:
    """Prints what was decided of each capability, why, and where the certificate is."""
    said = certificate.predicate
    parts: list[RenderableType] = [_table(said.runs), Text(), *(_reason(run) for run in said.runs), Text()]
    parts += [Text(f"· {one_line(line)}", style="dim") for line in said.limitations]
    colour = DECIDED[said.decision]
    title = Text(f"the gate: {said.decision}", style=f"bold {colour}")
    console.print(Panel(Group(*parts), title=title, border_style=colour, title_align="left"))
    console.print(Text.assemble(("certificate  ", "dim"), str(path)))
    console.print(Text.assemble(("counts until ", "dim"), str(said.expires)))


def print_objections(path: Path, certificate: Certificate, objections: Sequence[str], console: Console) -> None:
    """Prints whether a certificate can be believed."""
    said = certificate.predicate
    if not objections:
        weights = f"{len(certificate.subject)} weight file{'s' * (len(certificate.subject) != 1)}"
        console.print(Text(f"it follows from its evidence: {said.decision}, of {weights}", style="green"))
        return
    console.print(Text(f"{path} does not hold:", style="bold red"))
    for objection in objections[:20]:
        console.print(Text(f"· {one_line(objection)}"))
    if len(objections) > 20:
        console.print(Text(f"· and {len(objections) - 20} more"))


def _table(runs: Sequence[CertifiedRun]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for title in ("capability", "verdict", "excess recovery", "allowed", "budget", "gate"):
        table.add_column(title)
    for run in runs:
        found, excess = run.result, decisive(run.result)
        table.add_row(
            Text(one_line(found.name)),
            Text(found.verdict, style=COLOURS[found.verdict]),
            "" if excess is None else f"{excess.estimate:.1%}  [{excess.low:.1%}, {excess.high:.1%}]",
            f"{found.policy['max_excess_recovery']:.1%} at {found.policy['confidence']:.1%}",
            str(min(found.budget.asked, found.budget.spent)),
            "waived" if run.waiver is not None else SAYS[found.verdict],
        )
    return table


def _reason(run: CertifiedRun) -> Text:
    waived = "" if run.waiver is None else f" Waived until {run.waiver.expires}: {one_line(run.waiver.reason)}."
    return Text(f"{one_line(run.result.name)}: {run.result.reason}.{waived}")
