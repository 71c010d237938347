"""An append-only log of JSON lines that survives being killed at any moment, and what its lines say."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import from_json

from redteam.errors import InputError
from redteam.evidence.events import KINDS, NOTES, Event, NoneNote
from redteam.evidence.sample import Sample

DAMAGED = "Restore it, or attack again"  # what to do about a file of evidence that is not what it was
Line = TypeVar("Line")


class AppendLog:
    """One JSON object a line. A line counts once its newline is there; a torn last line is cut off on opening."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch(exist_ok=True)
        self._cut_torn_line()
        self._file = path.open("a", encoding="utf-8")

    def append(self, row: dict[str, Any]) -> None:
        """Writes one line and hands it to the operating system."""
        self._file.write(json.dumps(row, allow_nan=False, separators=(",", ":")) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _cut_torn_line(self) -> None:
        with self.path.open("r+b") as file:
            content = file.read()
            file.truncate(content.rfind(b"\n") + 1)


def read_events(content: bytes, path: Path) -> Iterator[Event]:
    """Yields the events of a log. A last line without its newline is left out: the run was killed while it wrote it.

    Args:
        content: of the file.
        path: of the file, for messages.

    Raises:
        InputError: a line is no event; it names the file, the line and the field.
    """
    return read_lines(content, path, _event)


def read_samples(content: bytes, path: Path) -> Iterator[Sample]:
    """Yields the samples of a log; otherwise as `read_events`."""
    return read_lines(content, path, _sample)


def read_lines(content: bytes, path: Path, parsed: Callable[[bytes], Line]) -> Iterator[Line]:
    """Yields what a function makes of each line; otherwise as `read_events`. It may raise `ValueError`."""
    for number, line in enumerate(io.BytesIO(content), 1):
        if not line.endswith(b"\n"):
            return
        try:
            found = parsed(line)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            field = ".".join(str(part) for part in first["loc"])
            told = first["msg"].removeprefix("Value error, ")
            said = f"{field}: {told}" if field else told
            raise InputError(f"{path}, line {number}: {said}", DAMAGED) from error
        except ValueError as error:
            raise InputError(f"{path}, line {number}: {error}", DAMAGED) from error
        yield found


def _event(line: bytes) -> Event:
    """Returns the event of a line.

    Raises:
        ValueError: it is none.
    """
    row = _object(line)
    if "key" not in row:
        raise ValueError("key: Field required")
    kind = row.get("type")
    schema = KINDS.get(kind) if isinstance(kind, str) else None
    if kind == "note":
        schema = next((note for name, note in NOTES.items() if name in row), NoneNote)
    if schema is None:
        raise ValueError("it has no type" if kind is None else f"type: {kind!r} is no event")
    return schema.model_validate(row)


def _sample(line: bytes) -> Sample:
    """Returns the sample of a line.

    Raises:
        ValueError: it is none.
    """
    return Sample.model_validate(_object(line))


def _object(line: bytes) -> dict[str, Any]:
    """Returns the JSON object of a line.

    Raises:
        ValueError: it is none.
    """
    try:
        row = from_json(line)
    except ValueError:
        try:
            row = json.loads(line)  # slower, and takes half characters, which names in files can hold
        except ValueError as error:
            raise ValueError(f"it is no JSON ({error})") from error
    if not isinstance(row, dict):
        raise ValueError("it is no JSON object")
    return row
