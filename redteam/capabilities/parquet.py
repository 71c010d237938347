"""Rows of a Parquet file, read by a process of its own: see `parquet_child`."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from redteam.capabilities import parquet_child
from redteam.capabilities.libraries import library
from redteam.errors import InputError

PATIENCE = 600.0  # seconds for all rows of a file
REMEDY = "Write it with pyarrow, pandas or polars"


def parquet_rows(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields the rows of a file, counted from 1.

    Raises:
        InputError: it is no Parquet file, damaged, or far larger in memory than on disk; or pyarrow is not installed.
    """
    for line, text in enumerate(_read("rows", [file]).splitlines(), 1):
        yield line, json.loads(text)


def refuse_inflated(files: Sequence[Path]) -> None:
    """Refuses files whose footers say that they are far larger in memory than on disk, or make no sense.

    Raises:
        InputError: one of them does.
    """
    if files:
        _read("check", files)


def _read(what: str, files: Sequence[Path]) -> str:
    library("pyarrow", "parquet", str(files[0]))
    # -P: beside the program lie modules of ours under names that others may have too.
    command = [sys.executable, "-P", parquet_child.__file__, what, *map(str, files)]
    try:
        done = subprocess.run(command, capture_output=True, timeout=PATIENCE, check=False)
    except subprocess.TimeoutExpired as error:
        raise InputError(f"{files[0]} is not read within {PATIENCE:.0f} s", REMEDY) from error
    if done.returncode == 0:
        return done.stdout.decode()
    found = done.stderr.decode(errors="replace")
    if done.returncode != parquet_child.REFUSED:
        found = f"{files[0]} is no readable Parquet file (its library gave up)"
    raise InputError(found, REMEDY)
