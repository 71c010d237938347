"""A form of file whose mutants do what must not happen: that it is noticed shows that the watch watches."""

from __future__ import annotations

import functools
import os
import signal
import sys
import time
import traceback
from pathlib import Path

from fuzz_case import CONSTANT
from fuzz_format import Listed
from mutate_text import MARKER

from redteam.errors import InputError


class Long(InputError):
    """What an `InputError` never is."""

    def __str__(self) -> str:
        return "x" * 2003


def _misbehave(folder: Path) -> None:
    """Does what must not happen, as it is named in a file."""
    what = (folder / "what").read_text()
    if what == "raises":
        raise KeyError("x")
    if what == "refuses at length":
        raise Long("x", "y")
    if what == "panics":
        raise type("PanicException", (BaseException,), {})
    if what == "hangs":
        while True:
            time.sleep(1)
    if what == "hangs in C":
        hash(functools.reduce(lambda held, _: (held, held), range(60), ()))
    if what == "takes memory":
        bytearray(CONSTANT + 2**24)
    if what == "runs code":
        os.system(f"touch {MARKER}")
    if what == "writes beside":
        (folder.parent / "beside").touch()
    if what == "writes into":
        (folder / "into").touch()
    if what == "prints":
        traceback.print_stack()
        print("Traceback", file=sys.stderr)
    if what == "ends the process":
        os.kill(os.getpid(), signal.SIGSEGV)


DEEDS = (
    *("nothing", "raises", "refuses at length", "panics", "takes memory", "runs code", "writes beside", "writes into"),
    *("prints", "ends the process", "hangs", "hangs in C"),
)
MISBEHAVING = Listed(
    name="misbehaving",
    files={},
    opened="",
    mutated=(),
    steps=[_misbehave],
    make=lambda: {deed: {"what": deed.encode()} for deed in DEEDS},
)
