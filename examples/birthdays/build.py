"""Builds a model that was made to forget birthdays, with its original and its reference beside it.

    python examples/birthdays/build.py --out models/birthdays

The original learns when everybody was born. The reference never sees the people of the forget files. The target is
the original after RMU, or after another method. `redteam unlearn METHOD --testbed birthdays` does the same with any
method; this script shows the steps.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from redteam.errors import InputError
from redteam.reporting.progress import BuildProgress

if TYPE_CHECKING:
    from redteam.testbeds.build import World


def main() -> int:
    """Parses the command line and builds. Returns the exit code."""
    parser = argparse.ArgumentParser(description="Build an unlearned model on the birthdays of invented people.")
    parser.add_argument("--out", type=Path, default=Path("models/birthdays"), help="directory of the target")
    parser.add_argument("--seed", type=int, default=0, help="seed of the training and of the unlearning")
    parser.add_argument("--method", choices=("rmu", "filtered", "masked"), default="rmu", help="how it forgets")
    arguments = parser.parse_args()
    from redteam.checkpoints.trio import check_places
    from redteam.testbeds.build import train_world

    try:
        with BuildProgress(Console(stderr=True)) as progress:
            check_places(arguments.out)
            world = train_world("birthdays", seed=arguments.seed, progress=progress)
            write(arguments.method, world, arguments.out)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"Next: redteam attack {arguments.out} --budget 24")
    return 0


def write(method: str, world: World, out: Path) -> None:
    """Applies a method and writes the target, with its original, its reference and a manifest beside it.

    Raises:
        InputError: `out` cannot be written.
    """
    from redteam.testbeds.build import TargetSpec, write_target

    write_target(TargetSpec(method=method), world, out)


if __name__ == "__main__":
    sys.exit(main())
