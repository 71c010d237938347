"""A run that is over: its plan and its files, which are still what they were when it ended."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from redteam.errors import InputError
from redteam.evidence.directory import (
    EVENTS,
    FINISHED,
    MANIFEST,
    RESULTS,
    SAMPLES,
    SEALED,
    RunPlan,
    digest_of,
    read_plan,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class SealedRun:
    """A run that is over.

    Attributes:
        path: its directory.
        plan: what was run.
        digests: SHA-256 of its files, by name.
    """

    path: Path
    plan: RunPlan
    digests: Mapping[str, str]


def open_runs(path: Path) -> list[SealedRun]:
    """Opens the runs of a directory that are over: itself, or one for each of several capabilities of one model.

    Raises:
        InputError: there is none, or not all that there are to be; they are of several models; or as `open_sealed`.
    """
    if (path / MANIFEST).is_file():
        return [open_sealed(path)]
    found = [open_sealed(manifest.parent) for manifest in sorted(path.glob(f"*/{MANIFEST}"))]
    if not found:
        raise InputError(f"{path} is no run directory", "Give one that `redteam attack` wrote")
    if len({run.plan.target for run in found}) > 1:
        raise InputError(f"{path} holds runs of several models", "Give one of them")
    if sorted(run.plan.capability[0] for run in found) != _told(path):
        raise InputError(
            f"the runs in {path} are not those that its {RESULTS} tells of: it was interrupted, or one was removed",
            "Repeat the command that began it: it goes on from here",
        )
    return found


def _told(path: Path) -> list[str]:
    """Returns the capabilities of the common results, which are written once every run is over; none without them."""
    try:
        results = json.loads((path / RESULTS).read_text(encoding="utf-8"))
        return sorted(str(capability["name"]) for capability in results["capabilities"])
    except (OSError, ValueError, TypeError, KeyError):
        return []


def open_sealed(path: Path) -> SealedRun:
    """Opens a run that is over.

    Raises:
        InputError: it is not over, or its files were changed or cut off afterwards.
    """
    plan = read_plan(path)
    try:
        lines = (path / EVENTS).read_bytes().splitlines(keepends=True)
        last = json.loads(lines[-1]) if lines else {}
    except (OSError, ValueError) as error:
        raise InputError(f"{path / EVENTS} is damaged or cut off", "Restore it, or attack again") from error
    if not isinstance(last, dict) or last.get("type") != FINISHED:
        raise InputError(f"the run in {path} is not finished", "Repeat the command that began it: it goes on from here")
    if not lines[-1].endswith(b"\n"):
        raise InputError(f"{path / EVENTS} is cut off", "Restore it, or attack again")
    _refuse_changed(path, last, lines[:-1])
    return SealedRun(path=path, plan=plan, digests={name: digest_of(path / name) for name in SEALED})


def _refuse_changed(path: Path, finished: Mapping[str, object], before: Sequence[bytes]) -> None:
    found = {
        MANIFEST: digest_of(path / MANIFEST),
        EVENTS: hashlib.sha256(b"".join(before)).hexdigest(),
        SAMPLES: digest_of(path / SAMPLES),
    }
    seal = finished.get("seal")
    if not isinstance(seal, dict):
        raise InputError(f"the run in {path} was not sealed: an older release ended it", "Attack again")
    changed = [name for name in SEALED if seal.get(name) != found[name]]
    if changed:
        raise InputError(f"{path / changed[0]} is not what it was when the run ended", "Restore it, or attack again")
