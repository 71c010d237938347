"""A baseline: the sealed evidence of a run in one file, small enough to be kept beside the code of a release."""

from __future__ import annotations

import re
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from redteam.atomic import replacing
from redteam.errors import InputError
from redteam.evidence.directory import RESULTS, SEALED
from redteam.evidence.sealed import open_runs

HELD = re.compile(r"(?:(?!\.)[^/\\\0]+/)?(?:manifest\.json|events\.jsonl|samples\.jsonl)|results\.json")
LARGEST = 2**31  # bytes of all files in it: evidence of the largest runs has a tenth of that
MIDNIGHT = (1980, 1, 1, 0, 0, 0)  # the same evidence makes the same file


def write_baseline(run: Path, path: Path) -> None:
    """Packs what `redteam compare` needs of a run that is over: plan, log and scores, with the seal upon them.

    Raises:
        InputError: the run is not over or was changed since; or the place cannot be written.
    """
    files = [one.path / name for one in open_runs(run) for name in SEALED]
    files += [run / RESULTS] if (run / RESULTS).is_file() else []
    if not path.parent.is_dir():
        raise InputError(f"{path} cannot be written (there is no such directory)", "Choose another place")
    with replacing(path) as draft, zipfile.ZipFile(draft, "w") as archive:
        for file in files:
            entry = zipfile.ZipInfo(file.relative_to(run).as_posix(), MIDNIGHT)
            archive.writestr(entry, file.read_bytes(), zipfile.ZIP_DEFLATED, 9)


@contextmanager
def evidence_at(path: Path) -> Iterator[Path]:
    """Gives a run directory: itself, or while it is open what a baseline holds.

    Raises:
        InputError: the file is no baseline, or holds something else besides.
    """
    if path.is_dir() or not path.exists():
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="redteam-") as folder:
        try:
            with zipfile.ZipFile(path) as archive:
                _refuse_strange(path, archive)
                archive.extractall(folder)
        except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
            raise InputError(f"{path} is no baseline ({error})", "Write one with `redteam baseline write`") from error
        yield Path(folder)


def _refuse_strange(path: Path, archive: zipfile.ZipFile) -> None:
    """Refuses what would be written elsewhere, or fill the disk: a file can be anybody's."""
    entries = archive.infolist()
    strange = [entry.filename for entry in entries if not HELD.fullmatch(entry.filename)]
    if strange or not entries:
        found = f"it holds {strange[0][:80]!r}" if strange else "it is empty"
        raise InputError(f"{path} is no baseline: {found}", "Write one with `redteam baseline write`")
    if sum(entry.file_size for entry in entries) > LARGEST:
        raise InputError(f"{path} unpacks to more than {LARGEST >> 30} GiB", "Give a baseline, or a run directory")
