"""A run directory: manifest, event log, per-item scores, results."""

from __future__ import annotations

import fcntl
import hashlib
import json
import platform
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import IO

from redteam.atomic import STAGED, write
from redteam.errors import InputError
from redteam.evidence.events import SCHEMA, Event, FinishedEvent
from redteam.evidence.log import AppendLog, read_events
from redteam.evidence.run_events import Events
from redteam.record import Record

MANIFEST, EVENTS, SAMPLES, RESULTS = "manifest.json", "events.jsonl", "samples.jsonl", "results.json"
SEALED = (MANIFEST, EVENTS, SAMPLES)  # what a verdict follows from
SCHEMA_OF = "evidence schema"  # in the environment of a manifest; one that lacks it is of schema 1
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
        further_references: digests of those beside the first.
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
    further_references: tuple[str, ...] = ()

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the plan; one that extends none, or has one reference, has the same as before there were such."""
        unsaid = {name for name in ("extends", "further_references") if not getattr(self, name)}
        content = self.model_dump(exclude=unsaid)
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


class Manifest(Record):
    """What `manifest.json` says.

    Attributes:
        plan: what is run.
        environment: versions of what ran, of the machine, and of the schema of the evidence.
    """

    plan: RunPlan
    environment: dict[str, str]

    def as_text(self) -> str:
        """Returns the file as it is written: the plan, and the environment beside it."""
        return json.dumps({**self.plan.model_dump(), "environment": self.environment}, indent=2) + "\n"


class RunDirectory:
    """An open run, held by one process.

    Attributes:
        path: the directory.
        plan: what is run.
        events: what was recorded so far.
        resumed: whether there was evidence of this plan already.
    """

    def __init__(self, path: Path, plan: RunPlan) -> None:
        """Creates the directory, or opens it to go on.

        Raises:
            InputError: it cannot be written, belongs to another plan or is no run directory, or is in use.
        """
        self.path, self.plan, self.events = path, plan, Events()
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
            recorded = (path / EVENTS).read_bytes() if (path / EVENTS).exists() else b""
            self.events.by_key.update((event.key, event) for event in read_events(recorded, path / EVENTS))
            self._events = AppendLog(path / EVENTS)
            self._samples = AppendLog(path / SAMPLES)
        except BaseException:
            self._lock.close()
            raise

    def record(self, event: Event, samples: Mapping[str, Sequence[float]] | None = None) -> None:
        """Appends an event; its per-item scores go first, so that an event is never without them."""
        for name, values in (samples or {}).items():
            self._samples.append({"key": event.key, "name": name, "scores": [_short(v) for v in values]})
        event = event.model_copy(update={"time": round(time.time(), 3)})
        self._events.append(event.as_row())
        self.events.by_key[event.key] = event

    def finish(self) -> None:
        """Records that the run is over, with the digests of its files as they are by then."""
        self.record(FinishedEvent(seal={name: digest_of((self.path / name).read_bytes()) for name in SEALED}))

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

    def _adopt(self) -> bool:
        """Returns whether the directory holds this plan already; writes the manifest if it is new."""
        manifest = self.path / MANIFEST
        if not manifest.exists():
            around = {**environment(), SCHEMA_OF: str(SCHEMA)}
            write(manifest, Manifest(plan=self.plan, environment=around).as_text())
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
        return parse_manifest((path / MANIFEST).read_bytes(), path).plan
    except OSError as error:
        raise _unreadable(path) from error


def seeds_beside(path: Path, plan: RunPlan) -> tuple[int, ...]:
    """Returns the seeds of other runs, over and beside this one, that looked at the same facts of the same target.

    Args:
        path: of the run.
        plan: of the run.
    """
    found = []
    for manifest in sorted(path.absolute().parent.glob(f"*/{MANIFEST}")):
        if not manifest.with_name(RESULTS).is_file():
            continue
        try:
            other = read_plan(manifest.parent)
        except InputError:  # whatever else lies there
            continue
        if (other.target, other.capability) == (plan.target, plan.capability) and other.seed != plan.seed:
            found.append(other.seed)
    return tuple(found)


def parse_manifest(content: bytes, path: Path) -> Manifest:
    """Returns what a manifest says.

    Args:
        content: of the file.
        path: of the run, for messages.

    Raises:
        InputError: it is none, or a newer release wrote it.
    """
    try:
        plan = json.loads(content)
        found = Manifest.model_validate({"environment": plan.pop("environment", {}), "plan": plan})
        newer = int(found.environment.get(SCHEMA_OF, "1")) > SCHEMA
    except (ValueError, TypeError, AttributeError) as error:
        raise _unreadable(path) from error
    if newer:
        raise InputError(f"a newer release than this one wrote {path}", "Use that release")
    return found


def digest_of(content: bytes) -> str:
    """Returns the SHA-256 of a file's bytes."""
    return hashlib.sha256(content).hexdigest()


def environment() -> dict[str, str]:
    """Returns versions and machine, for the record."""
    packages = ("unlearning-redteam", "torch", "transformers", "optuna", "scikit-learn", "scipy", "numpy")
    return {
        "python": platform.python_version(),
        "system": platform.system(),
        "machine": platform.machine(),
        **{name: version(name) for name in packages},
    }


def _unreadable(path: Path) -> InputError:
    return InputError(f"{path} has no readable {MANIFEST}", "Choose another place with --out")


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
