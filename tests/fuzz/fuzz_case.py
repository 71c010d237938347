"""One mutant: opened under watch, and all that must not happen is looked for."""

from __future__ import annotations

import ctypes
import hashlib
import os
import pickle
import pickletools
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from types import FrameType

from fuzz_format import Files, Format, write_files

from redteam.errors import MAX_FOUND, MAX_REMEDY, InputError

NUMBERS, USUAL = pickle.dumps(list(range(100_000)), 2), 0.033  # seconds that taking these apart takes where LIMIT is 5


def pace() -> float:
    """How many times slower than usual this machine is, at least 1: five seconds there are fifteen on a slow one."""
    began = [time.process_time()]
    for _ in range(3):
        deque(pickletools.genops(NUMBERS), maxlen=0)
        began.append(time.process_time())
    return max(1.0, min(after - before for before, after in pairwise(began)) / USUAL)


# Seconds of the processor for a call: on a busy machine a clock on the wall would count others' work.
LIMIT = round(5.0 * pace(), 1)
WAIT = 2 * LIMIT  # seconds on the wall, for what waits without computing
LONGEST_MESSAGE = MAX_FOUND + MAX_REMEDY + 2
# What a whole tiny model takes above its size when it is opened for the first time, see `test_fuzz_memory`.
CONSTANT = 64 * 2**20
SIZES = 3


class HungError(BaseException):
    """A call did not return in time. No `Exception`, so that nothing that catches those hides it."""


@dataclass
class Report:
    """What became of a mutant.

    Attributes:
        format: name of its form.
        number: says, with the form, which mutant it is.
        outcomes: of each call: "opened", or what was refused.
        problems: what must not happen.
        seconds: of the processor, of the longest call.
        growth: bytes of memory that the calls took at most.
        size: bytes of the files.
        digest: of the files.
    """

    format: str
    number: int
    outcomes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0
    growth: int = 0
    size: int = 0
    digest: str = ""

    @property
    def opened(self) -> bool:
        return not self.problems and set(self.outcomes) == {"opened"}


@contextmanager
def watchdog() -> Iterator[None]:
    """Raises in the main thread if the body takes longer. A body that never comes back to Python is not reached."""
    timers = ((signal.SIGPROF, signal.ITIMER_PROF, LIMIT), (signal.SIGALRM, signal.ITIMER_REAL, WAIT))

    def ring(signum: int, frame: FrameType | None) -> None:
        raise HungError

    before = [signal.signal(signum, ring) for signum, _, _ in timers]
    for _, timer, seconds in timers:
        signal.setitimer(timer, seconds)
    try:
        yield
    finally:
        for (signum, timer, _), handler in zip(timers, before, strict=True):
            signal.setitimer(timer, 0)
            signal.signal(signum, handler)


def resident(name: str = "VmRSS") -> int:
    """Bytes of memory that are in use; "VmHWM" for the most since `reset_peak`."""
    with open("/proc/self/status", encoding="ascii") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(name + ":"))


def reset_peak() -> None:
    """Lets the kernel count the peak anew, after what was freed before has been given back."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/clear_refs", "w", encoding="ascii") as control:
        control.write("5")


def told(call: Callable[[], object]) -> tuple[str, str | None]:
    """Calls, and returns what became of it, and what is wrong with that."""
    try:
        with watchdog():
            call()
    except InputError as error:
        said = str(error)
        if not said.isprintable() or len(said) > LONGEST_MESSAGE:
            return said[:200], f"refused in {len(said)} characters, printable: {said.isprintable()}: {said[:200]!r}"
        return said, None
    except HungError:
        return "hung", f"hung for {LIMIT} s of the processor, or {WAIT} s"
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - a panic of Rust is no Exception, and a finding all the same
        place = error.__traceback__
        while place is not None and place.tb_next is not None:
            place = place.tb_next
        where = f"{place.tb_frame.f_code.co_filename}:{place.tb_lineno}" if place else "nowhere"
        return "raised", f"{type(error).__name__}: {str(error)[:200]!r} at {where}"
    return "opened", None


def examine(format: Format, number: int, folder: Path) -> Report:
    """Opens a mutant.

    Args:
        format: its form.
        number: says which mutant.
        folder: for its files. The working directory is an empty one beside them, where code of an attacker's would
            leave its mark.
    """
    case, here = folder / "case", folder / "here"
    here.mkdir(exist_ok=True)
    os.chdir(here)
    files = format.mutant(number)
    write_files(case, files)
    before = set(os.listdir(folder))
    report = Report(format.name, number, size=sum(map(len, files.values())), digest=digest(files))
    for step in format.steps:
        reset_peak()
        start, began = resident(), time.process_time()
        outcome, problem = told(lambda step=step: step(case / format.opened))  # type: ignore[misc]
        report.outcomes.append(outcome)
        report.problems += [problem] if problem else []
        report.seconds = max(report.seconds, time.process_time() - began)
        report.growth = max(report.growth, resident("VmHWM") - start)
    if report.seconds > LIMIT and "hung" not in report.outcomes:
        report.problems.append(f"took {report.seconds:.1f} s")
    if report.growth > SIZES * report.size + CONSTANT:
        report.problems.append(f"took {report.growth / 2**20:.0f} MiB for {report.size} bytes")
    report.problems += [f"wrote {name}" for name in _written(here, case, folder, files, before)]
    return report


def digest(files: Files) -> str:
    """SHA-256 of files and their names."""
    return hashlib.sha256(repr(sorted(files.items())).encode()).hexdigest()


def _written(here: Path, case: Path, folder: Path, files: Files, before: set[str]) -> list[str]:
    """Returns what was written, and removes it from where the next mutant is looked at."""
    strange = [here / name for name in os.listdir(here)]
    strange += [case / name for name in os.listdir(case) if name not in files and name != "__pycache__"]
    strange += [folder / name for name in os.listdir(folder) if name not in before]
    for path in strange:
        path.unlink(missing_ok=True)
    return [path.name for path in strange]
