"""A process that opens mutants on request, so that one that hangs it or ends it ends nothing else.

Run as `python fuzz_worker.py FOLDER`. It reads lines `START STOP FORMAT` and answers "made" once it has them, and
with a line of JSON for each mutant.
"""

from __future__ import annotations

import dataclasses
import gc
import json
import os
import resource
import sys
import warnings
from pathlib import Path

ROOM = 8 * 2**30  # bytes of address space beyond what it has at the start: a bomb ends this process, not the machine


def main(folder: Path) -> None:
    import torch
    from fuzz_case import examine
    from fuzzed_formats import build_formats

    torch.set_num_threads(1)
    formats = build_formats(folder / "whole")
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    errors = os.dup(2)
    printed = os.open(folder / "printed", os.O_RDWR | os.O_CREAT | os.O_APPEND)
    os.dup2(printed, 1)
    os.dup2(printed, 2)
    sys.path.insert(0, str(folder / "case"))  # where a module of an attacker's lies: to import it would run it
    sys.dont_write_bytecode = True
    warnings.simplefilter("ignore")  # of libraries, to those who use them
    gc.freeze()
    with open("/proc/self/statm", encoding="ascii") as statm:
        used = int(statm.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, used + ROOM))
    answers.write("ready\n")
    try:
        for line in sys.stdin:
            start, stop, name = line.rstrip("\n").split(" ", 2)
            formats[name].mutant(int(start))  # what is made when it is first needed is made before the clock runs
            answers.write("made\n")
            for number in range(int(start), int(stop)):
                os.ftruncate(printed, 0)
                report = examine(formats[name], number, folder)
                text = os.pread(printed, 10_000, 0).decode("utf-8", "replace")
                sys.modules.pop("evil", None)
                if text.strip():
                    report.problems.append(f"printed {text[-300:]!r}")
                answers.write(json.dumps(dataclasses.asdict(report)) + "\n")
    finally:
        os.dup2(errors, 2)  # what is wrong with the fuzzer itself is shown


if __name__ == "__main__":
    main(Path(sys.argv[1]))
