"""Atomic writes: whole files and directories appear at once, or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from redteam.errors import InputError


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
        folder = Path(tempfile.mkdtemp(prefix=".redteam-", dir=path.parent))
        yield folder
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror})", "Choose another place") from error
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Writes a text file atomically, as UTF-8.

    Raises:
        InputError: the place cannot be written.
    """
    with staging(path) as folder:
        (folder / path.name).write_text(text, encoding="utf-8")
        os.replace(folder / path.name, path)


def replace_directory(new: Path, path: Path, folder: Path) -> None:
    """Moves the directory `new` to `path`; what was there goes to the staging `folder` and with it.

    Raises:
        OSError: `path` cannot be replaced; what was there is back in place.
    """
    old = folder / "old"
    if path.exists():
        os.rename(path, old)
    try:
        os.rename(new, path)
    except OSError:
        if old.exists():
            os.rename(old, path)
        raise
