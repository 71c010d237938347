"""A run that is over: its plan and its evidence, in files that are still what they were when it ended."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from redteam.errors import InputError
from redteam.evidence import keys
from redteam.evidence.directory import EVENTS, MANIFEST, RESULTS, SAMPLES, SEALED, RunPlan, digest_of, parse_manifest
from redteam.evidence.evidence import Evidence, evidence_in
from redteam.evidence.log import DAMAGED


@dataclass(frozen=True, kw_only=True, slots=True)
class SealedRun:
    """A run that is over, read once.

    Attributes:
        path: its directory.
        plan: what was run.
        environment: versions of what ran, and of the machine.
        digests: SHA-256 of its files, by name.
        evidence: what it recorded.
    """

    path: Path
    plan: RunPlan
    environment: Mapping[str, str]
    digests: Mapping[str, str]
    evidence: Evidence


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
    """Opens a run that is over. Each of its files is read once: what is judged is what the seal is compared with.

    Raises:
        InputError: it is not over, or its files were changed or cut off afterwards; or they are not of the schema.
    """
    files = {name: _content(path, name) for name in SEALED}
    manifest = parse_manifest(files[MANIFEST], path)
    _refuse_changed(path, files)
    return SealedRun(
        path=path,
        plan=manifest.plan,
        environment=manifest.environment,
        digests={name: digest_of(content) for name, content in files.items()},
        evidence=evidence_in(files[EVENTS], files[SAMPLES], path),
    )


def _content(path: Path, name: str) -> bytes:
    try:
        return (path / name).read_bytes()
    except OSError as error:
        raise InputError(f"{path / name} cannot be read ({error.strerror})", DAMAGED) from error


def _refuse_changed(path: Path, files: Mapping[str, bytes]) -> None:
    """Refuses files that are not those which the last event sealed; that event is not under its own seal."""
    events = files[EVENTS]
    start = events.rfind(b"\n", 0, -1) + 1
    try:
        finished = json.loads(events[start:]) if events else {}
    except ValueError as error:
        raise InputError(f"{path / EVENTS} is damaged or cut off", DAMAGED) from error
    if not isinstance(finished, dict) or finished.get("type") != keys.FINISHED:
        raise InputError(f"the run in {path} is not finished", "Repeat the command that began it: it goes on from here")
    if not events.endswith(b"\n"):
        raise InputError(f"{path / EVENTS} is cut off", DAMAGED)
    seal = finished.get("seal")
    if not isinstance(seal, dict):
        raise InputError(f"the run in {path} was not sealed: an older release ended it", "Attack again")
    sealed = {**files, EVENTS: events[:start]}
    changed = [name for name in SEALED if seal.get(name) != digest_of(sealed[name])]
    if changed:
        raise InputError(f"{path / changed[0]} is not what it was when the run ended", DAMAGED)
