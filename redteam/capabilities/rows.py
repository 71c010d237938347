"""Rows of the files that a capability names: JSON lines, CSV with a line of names, or Parquet."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from redteam.capabilities.parquet import parquet_rows
from redteam.errors import InputError

Row = dict[str, Any]
JSON_LINES, CSV = (
    "Write one JSON object a line",
    "Write it as UTF-8 with names in the first line and as many cells in each",
)


def rows_of(file: Path) -> list[tuple[int, Row]]:
    """Returns the rows of a file with the line that each is on (of CSV: ends on; of Parquet: its number).

    Args:
        file: CSV if it is called `.csv`, Parquet if `.parquet`, else JSON lines.

    Raises:
        InputError: it is missing, cannot be read, or has a line that is no row.
    """
    if not os.path.isfile(file):  # unlike Path.is_file it raises nothing, whatever the name is
        raise InputError(f"there is no data file {file}", "Check the paths in the capability file")
    if file.suffix.lower() == ".parquet":
        return list(parquet_rows(file))
    tabular = file.suffix.lower() == ".csv"
    try:
        # A line may end inside a cell of CSV: its reader wants to see how.
        with file.open(encoding="utf-8-sig" if tabular else "utf-8", newline="" if tabular else None) as text:
            content = text.read()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file} is not readable as UTF-8 text ({error})", CSV if tabular else JSON_LINES) from error
    return list(_cells(file, content) if tabular else _objects(file, content))


def _objects(file: Path, content: str) -> Iterator[tuple[int, Row]]:
    # Not splitlines: JSON strings may hold U+2028 and other characters that it takes for the end of a line.
    for line, text in enumerate(content.split("\n"), 1):
        if not text.strip():
            continue
        try:
            row = json.loads(text)
        except (ValueError, RecursionError) as error:  # decode errors, endless numbers, endless nesting
            raise InputError(f"{file}:{line} is not JSON ({error})", JSON_LINES) from error
        if not isinstance(row, dict):
            raise InputError(f"{file}:{line} is not a JSON object", JSON_LINES)
        yield line, row


def _cells(file: Path, content: str) -> Iterator[tuple[int, Row]]:
    reader = csv.reader(io.StringIO(content, newline=""), strict=True)
    try:
        names = next(reader, [])
        if len(set(names)) != len(names) or not all(name.strip() for name in names):
            raise InputError(f"{file}:1 names its columns {names!r}"[:300], "Give each column a name of its own")
        for cells in reader:
            if not cells:
                continue
            if len(cells) != len(names):
                raise InputError(f"{file}:{reader.line_num} has {len(cells)} cells for {len(names)} names", CSV)
            yield reader.line_num, dict(zip(names, cells, strict=True))
    except csv.Error as error:
        raise InputError(f"{file}:{reader.line_num} is not CSV ({error})", CSV) from error
