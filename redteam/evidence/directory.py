"""A run directory: manifest, event log, per-item scores, results."""

from __future__ import annotations

import fcntl
import hashlib
import json
import platform
import time
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

from pydantic import ValidationError

from redteam.atomic import STAGED, write
from redteam.errors import InputError
from redteam.evidence.log import AppendLog, read_rows
from redteam.record import Record

MANIFEST, EVENTS, SAMPLES, RESULTS = "manifest.json", "events.jsonl", "samples.jsonl", "results.json"
SEALED = (MANIFEST, EVENTS, SAMPLES)  # what a verdict follows from
FINISHED = "finished"
LOCK = ".lock"


class RunPlan(Record):
    """What determines the outcome of a run. Two runs of equal plans are the same run.

    Attributes:
        suite: name and version of the protocol.
        target: SHA-256 of the weights; so for original and reference.
        descriptions: role -> SHA-256 of config and tokenizer beside the weights.
        capability: name and SHA-256 of every item of every split.
        access: what the adversary has.
        attacks: name -> version, with the digest of its source where that is a user's file; so for probes.
        budget: search trials asked for, in all.
        seed: of the run.
        extends: budgets after which the same search was looked at before, in order.
    """

    schema_version: int = 1
    suite: str
    target: str
    original: str | None
    reference: str | None
    descriptions: dict[str, str]
    capability: tuple[str, str]
    access: str = "weights"
    attacks: dict[str, int | str]
    probes: dict[str, int | str]
    budget: int
    seed: int
    extends: tuple[int, ...] = ()

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the plan; one that extends none has the same as before there was such a thing."""
        content = self.model_dump(exclude=set() if self.extends else {"extends"})
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


class RunDirectory:
    """An open run, held by one process.

    Attributes:
        path: the directory.
        plan: what is run.
        resumed: whether there was evidence of this plan already.
    """

    def __init__(self, path: Path, plan: RunPlan) -> None:
        """Creates the directory, or opens it to go on.

        Raises:
            InputError: it cannot be written, belongs to another plan or is no run directory, or is in use.
        """
        self.path, self.plan = path, plan
        self.trials: dict[str, dict[str, Any]] = {}
        self.facts: dict[str, dict[str, Any]] = {}
        try:
            path.mkdir(parents=True, exist_ok=True)
            _refuse_foreign(path)
            self._lock = (path / LOCK).open("a")
        except OSError as error:
            raise InputError(
                f"{path} cannot be written ({error.strerror})", "Choose another place with --out"
            ) from error
        try:
            lock(self._lock, path)
            self.resumed = self._adopt()
            for row in read_rows(path / EVENTS):
                self._index(row)
            self._events = AppendLog(path / EVENTS)
            self._samples = AppendLog(path / SAMPLES)
        except BaseException:
            self._lock.close()
            raise

    def record(self, kind: str, key: str, row: dict[str, Any], samples: dict[str, list[float]] | None = None) -> None:
        """Appends an event; its per-item scores go first, so that an event is never without them."""
        for name, values in (samples or {}).items():
            self._samples.append({"key": key, "name": name, "scores": [_short(v) for v in values]})
        event = {"type": kind, "key": key, "time": round(time.time(), 3), **row}
        self._events.append(event)
        self._index(event)

    def finish(self) -> None:
        """Records that the run is over, with the digests of its files as they are by then."""
        self.record(FINISHED, FINISHED, {"seal": {name: digest_of(self.path / name) for name in SEALED}})

    def write_results(self, text: str) -> Path:
        """Writes results.json whole or not at all."""
        path = self.path / RESULTS
        write(path, text)
        return path

    def close(self) -> None:
        """Closes the logs and lets go of the directory."""
        self._events.close()
        self._samples.close()
        self._lock.close()

    def __enter__(self) -> RunDirectory:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _index(self, row: dict[str, Any]) -> None:
        (self.trials if row["type"] == "trial" else self.facts)[row["key"]] = row

    def _adopt(self) -> bool:
        """Returns whether the directory holds this plan already; writes the manifest if it is new."""
        manifest = self.path / MANIFEST
        if not manifest.exists():
            write(manifest, json.dumps({**self.plan.model_dump(), "environment": environment()}, indent=2) + "\n")
            return False
        found = read_plan(self.path)
        if found != self.plan:
            differing = [name for name in RunPlan.model_fields if getattr(found, name) != getattr(self.plan, name)]
            raise InputError(
                f"{self.path} is the run of another plan (it differs in: {', '.join(differing)})",
                "Choose another place with --out, or repeat the command of that run",
            )
        return True


def read_plan(path: Path) -> RunPlan:
    """Reads the plan of a run directory.

    Raises:
        InputError: there is no readable manifest.
    """
    try:
        data = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        return RunPlan.model_validate({k: v for k, v in data.items() if k != "environment"})
    except (OSError, ValueError, AttributeError, ValidationError) as error:
        raise InputError(f"{path} has no readable {MANIFEST}", "Choose another place with --out") from error


def digest_of(path: Path) -> str:
    """Returns the SHA-256 of a file's bytes.

    Raises:
        InputError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})", "Restore it, or attack again") from error


def environment() -> dict[str, str]:
    """Returns versions and machine, for the record."""
    packages = ("unlearning-redteam", "torch", "transformers", "optuna", "scikit-learn", "scipy", "numpy")
    return {
        "python": platform.python_version(),
        "system": platform.system(),
        "machine": platform.machine(),
        **{name: version(name) for name in packages},
    }


def _refuse_foreign(path: Path) -> None:
    """Refuses a directory that has content but no manifest; a start that was killed may have left its own traces."""
    names = {entry.name for entry in path.iterdir()}
    foreign = sorted(name for name in names if name != LOCK and not name.startswith((STAGED, f"{MANIFEST}.part")))
    if MANIFEST not in names and foreign:
        raise InputError(
            f"{path} is not empty and no run directory (it holds {foreign[0]})", "Choose another place with --out"
        )


def lock(file: IO[str], path: Path) -> None:
    """Takes a folder for this process, until the file in it is closed or the process ends, however it ends.

    Raises:
        InputError: another process has it.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise InputError(f"another process is running in {path}", "Wait for it, or choose another --out") from error


def _short(value: float) -> float | int:
    return int(value) if value == int(value) else round(value, 6)
