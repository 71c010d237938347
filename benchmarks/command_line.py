"""What it costs to look around: CPU time of `redteam --help` against that of an empty Typer app."""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys

from benchmarks.claims import Claim, Measured

REPEATS = 15
EMPTY = (
    "import sys, typer\nsys.argv = ['x', '--help']\napp = typer.Typer()\n"
    "@app.command()\ndef f() -> None:\n    pass\napp()"
)
OURS = "import sys\nsys.argv = ['redteam', '--help']\nfrom redteam.cli import app\napp()"


def measure() -> Measured:
    """Runs both in turn, so that both meet the same machine, and compares medians."""
    pairs = [(_cpu_seconds(OURS), _cpu_seconds(EMPTY)) for _ in range(REPEATS)]
    ours, empty = (statistics.median(column) for column in zip(*pairs, strict=True))
    return Measured(
        title="The command line: CPU seconds of --help",
        claims=[Claim(name="redteam --help over an empty Typer app", measured=ours / empty, must="<=", limit=2.5)],
        rows=[{"redteam --help": ours, "empty app": empty}],
        setting={"repeats": REPEATS},
    )


def _cpu_seconds(program: str) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
