"""Runs benchmarks: `python -m benchmarks [NAME ...]`. Exit code 1 if a claim does not hold."""

from __future__ import annotations

import argparse
import sys
from importlib import import_module

from rich.console import Console

from benchmarks.claims import publish

NAMES = (
    "command_line",
    "engine",
    "accelerator",
    "memory",
    "ground_truth",
    "calibration",
    "selection",
    "small_runs",
    "hides",
    "spectrum",
    "classes",
    "resnet",
    "birthdays",
    "split_autoencoder",
    "cost",
    "mixture",
    "families",
    "search",
    "quantization",
)


def main() -> int:
    """Runs what was asked for, in the order of `NAMES`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of: {', '.join(NAMES)} (default: all)")
    wanted = parser.parse_args().names or NAMES
    unknown = set(wanted) - set(NAMES)
    if unknown:
        parser.error(f"no benchmark is named {min(unknown)!r}; there are {', '.join(NAMES)}")
    console = Console() if sys.stdout.isatty() else Console(width=150)
    broken = 0
    for name in (name for name in NAMES if name in wanted):
        measured = import_module(f"benchmarks.{name}").measure()
        if isinstance(measured, str):
            console.print(f"\n{name}: skipped, {measured}")
        else:
            broken += not publish(name, measured, console)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
