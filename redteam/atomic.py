"""Atomic writes: a file appears whole, or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from redteam.errors import InputError

STAGED = ".redteam-"  # how the name of a staging directory begins; a killed process leaves one behind


@contextmanager
def staging(path: Path) -> Iterator[Path]:
    """Gives an empty directory beside `path`, on the same file system, and removes it afterwards.

    Missing parents of `path` are made.

    Raises:
        InputError: the place cannot be written; any `OSError` of the body counts as that.
    """
    folder: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=STAGED, dir=path.parent))
        yield folder
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror})", "Choose another place") from error
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a path to write a file to. Once the body has ended, that file takes the place of `path` in one step.

    The content is on the disk before it takes that place, so that a power cut leaves the old file or the new one.

    Raises:
        InputError: the place cannot be written; any `OSError` of the body counts as that.
    """
    with staging(path) as folder:
        draft = folder / path.name
        yield draft
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(draft, path)


def write(path: Path, content: str | bytes) -> None:
    """Writes a file atomically; text as UTF-8.

    Raises:
        InputError: the place cannot be written.
    """
    with replacing(path) as draft:
        draft.write_bytes(content.encode() if isinstance(content, str) else content)
