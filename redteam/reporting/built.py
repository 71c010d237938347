"""What `redteam unlearn` prints: what was built, at what cost, and where it is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from redteam.config.manifest import Manifest
from redteam.record import Cost

PLAIN = "plain training"


def print_built(manifest: Manifest, places: Mapping[str, Path], console: Console) -> None:
    """Prints the costs against plain training, the alignment tax, and the paths."""
    plain = manifest.costs.get(PLAIN)
    if plain is not None:
        console.print(_costs(manifest, plain))
    tax = manifest.alignment_tax
    if tax is not None:
        console.print(
            Text(f"alignment tax  {tax.estimate:.3f} of utility  [{tax.low:.3f}, {tax.high:.3f}], 95% interval\n")
        )
    for role, path in places.items():
        console.print(Text(f"{role:<10} {path}"), soft_wrap=True)


def _costs(manifest: Manifest, plain: Cost) -> Table:
    names = {"method": manifest.method, "then": f"then {manifest.then}"}
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("cost")
    for heading in ("FLOPs", "seconds", "peak MiB"):
        table.add_column(heading, justify="right")
    table.add_column("of plain training (FLOPs)", justify="right")
    for name, cost in manifest.costs.items():
        table.add_row(
            names.get(name, name),
            f"{cost.flops:.2g}",
            f"{cost.seconds:.1f}",
            f"{cost.peak_bytes / 2**20:.0f}",
            f"{cost.flops / plain.flops:.2f}" if plain.flops else "",
        )
    return table
