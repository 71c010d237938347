"""Draws the README's picture from a real run: `make picture`."""

from __future__ import annotations

import io
import re
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console

from redteam.config.request import RunRequest
from redteam.reporting.console import print_results
from redteam.suite.inputs import resolve_one
from redteam.suite.progress import Silent
from redteam.suite.run import run_path
from redteam.suite.standard import run_standard

TARGET, BUDGET = Path("models/facts-rmu.pt"), 32
PICTURE = Path(__file__).with_name("attack.svg")


def main() -> None:
    """Attacks the target as `make attack` does (or finds that run) and writes its report as SVG."""
    inputs = resolve_one(RunRequest(target=TARGET, budget=BUDGET))
    run = run_path(inputs)
    results, _ = run_standard(inputs, run, Silent())
    console = Console(record=True, width=104, file=io.StringIO(), force_terminal=True)
    print_results(results, run, console)
    # rich's template loads its font from the network; without that the reader's own monospace font is taken.
    template = re.sub(r"@font-face \{\{.*?\}\}\s*", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    drawn = console.export_svg(title=f"redteam attack {TARGET} --budget {BUDGET}", code_format=template)
    PICTURE.write_text(drawn, encoding="utf-8")


if __name__ == "__main__":
    main()
