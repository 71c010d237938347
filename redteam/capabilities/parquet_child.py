"""A program that `redteam.capabilities.parquet` starts: writes the rows of a Parquet file as JSON lines.

In a process of its own, since Arrow ends the one it is in over some damaged files, and no number in a file binds what
else is in it.

    python parquet_child.py ROWS_OR_CHECK FILE ...
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any

INFLATED = 100  # times the size of the file that its rows may have, as those of an .npz
MOST_VALUES = 10_000_000  # of all columns, and rows: each becomes an object of Python
MEMORY = 2**30  # bytes that the process may ask for, beyond what it has at the start and three times the file
BATCH = 1024  # rows that are taken apart at a time
REFUSED = 3  # exit code, with what was found on stderr


def main() -> int:
    """Writes the rows of a file, or compares what files say of themselves with their size."""
    os.environ["ARROW_DEFAULT_MEMORY_POOL"] = "system"  # others reserve far more than they use; read at import
    import pyarrow.parquet

    what, *files = sys.argv[1:]
    pyarrow.set_cpu_count(1)
    _bind(max(map(os.path.getsize, files), default=0))
    for file in files:
        try:
            read(rows if what == "rows" else texts, file)
        except Unreadable as error:
            print(f"{file} {error}", file=sys.stderr)
            return REFUSED
    return 0


class Unreadable(Exception):
    """What is wrong with a file."""


class Inflated(Unreadable):
    """It is far larger in memory than on disk."""


def read(how: Callable[[str], object], file: str) -> None:
    """Reads a file.

    Raises:
        Unreadable: it is no Parquet file, damaged, or far larger in memory than on disk.
    """
    try:
        how(file)
    except Unreadable:
        raise
    except Exception as error:  # Arrow raises whatever its parsers stumble over
        raise Unreadable(f"is no readable Parquet file ({error})") from error


def rows(file: str) -> None:
    """Writes the rows of a file.

    Columns of text stay as the file has them, each different text once, until a batch of them has been measured: a
    kilobyte can stand for the same megabyte a million times. Arrow cannot do that to texts in lists: those the
    process is bound by.

    Raises:
        Inflated: the rows are far larger than the file.
    """
    import pyarrow.parquet

    most, held, written = INFLATED * os.path.getsize(file), 0, 0
    with pyarrow.parquet.ParquetFile(file, read_dictionary=texts(file)) as opened:
        for batch in opened.iter_batches(batch_size=BATCH, use_threads=False):
            held += sum(stands_for(column) for column in batch.columns)
            for row in batch.to_pylist() if held <= most else [None]:
                text = json.dumps(row, default=str)
                written += len(text)  # the names of the columns too
                if max(held, written // 2) > most:
                    raise Inflated(f"has {os.path.getsize(file)} bytes and holds rows of more than {most}")
                print(text)


def texts(file: str) -> list[str]:
    """Returns the columns of text, but for those in lists, once the footer's numbers are those of a file of this size.

    Raises:
        Inflated: they are not.
    """
    import pyarrow.parquet

    size = os.path.getsize(file)
    with pyarrow.parquet.ParquetFile(file) as opened:
        metadata = opened.metadata
    columns = [metadata.schema.column(number) for number in range(metadata.num_columns)]
    whole = {column.path for column in columns if column.physical_type == "BYTE_ARRAY" and "." not in column.path}
    values, inflated = metadata.num_rows, 0
    for group in (metadata.row_group(number) for number in range(metadata.num_row_groups)):
        for number, column in enumerate(columns):
            chunk = group.column(number)
            values += chunk.num_values
            # Texts of one length may be written once and meant many times.
            inflated += max(chunk.total_uncompressed_size, chunk.num_values * max(column.length, 0))
            if "DELTA_BYTE_ARRAY" in chunk.encodings:
                whole.discard(column.path)
    if values > min(MOST_VALUES, INFLATED * size):
        raise Inflated(f"has {size} bytes and says that it holds {values} rows and values")
    if inflated > INFLATED * size:
        raise Inflated(f"has {size} bytes and says that it holds {inflated}")
    return sorted(whole)


def stands_for(array: Any) -> int:
    """Returns how many bytes the values of an array have."""
    import pyarrow.compute
    from pyarrow import types

    if types.is_dictionary(array.type):
        if types.is_primitive(array.type.value_type):
            return len(array) * int(array.type.value_type.bit_width) // 8 + int(array.indices.nbytes)
        lengths = pyarrow.compute.binary_length(array.dictionary)
        return int(pyarrow.compute.sum(lengths.take(array.indices)).as_py() or 0)
    if types.is_struct(array.type):
        return sum(stands_for(part) for part in array.flatten())
    if types.is_nested(array.type):  # lists of every kind
        return stands_for(array.flatten())
    return int(array.nbytes)


def _bind(size: int) -> None:
    """Binds the memory of this process, where the system is Linux."""
    try:
        import resource

        with open("/proc/self/statm") as counted:
            held = int(counted.read().split()[0]) * resource.getpagesize()
    except (ImportError, OSError):
        return
    most, allowed = held + MEMORY + 3 * size, resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (most if allowed == resource.RLIM_INFINITY else min(most, allowed), allowed))


if __name__ == "__main__":
    sys.exit(main())
