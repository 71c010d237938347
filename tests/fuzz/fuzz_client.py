"""Asks a `fuzz_worker` for mutants, and starts another where one did not survive a mutant."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from pathlib import Path

from fuzz_case import LIMIT, Report

HERE = Path(__file__).parent
START, PATIENCE = 120.0, 5 * LIMIT  # seconds for a worker to begin or to make mutants, and for all calls on one
ENVIRONMENT = {
    **os.environ,
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "PYTHONPATH": os.pathsep.join((str(HERE.parent), str(HERE), os.environ.get("PYTHONPATH", ""))),
}


class Worker:
    """A process that opens mutants."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process: subprocess.Popen[bytes] | None = None
        self.unread = b""

    def examine(self, name: str, numbers: range) -> list[Report]:
        """Returns a report of each mutant, in order."""
        reports: list[Report] = []
        while len(reports) < len(numbers):
            process = self.process or self._start()
            assert process.stdin is not None
            process.stdin.write(f"{numbers[len(reports)]} {numbers.stop} {name}\n".encode())
            process.stdin.flush()
            assert self._line(START) == b"made", "the worker did not make the mutants; it says why above"
            while len(reports) < len(numbers):
                line = self._line(PATIENCE)
                if line is None:
                    reports.append(Report(name, numbers[len(reports)], problems=[self._ended()]))
                    break
                reports.append(Report(**json.loads(line)))
        return reports

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None

    def _start(self) -> subprocess.Popen[bytes]:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.unread = b""
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "fuzz_worker.py"), str(self.folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=ENVIRONMENT,
        )
        assert self._line(START) == b"ready", "the worker did not start; it says why above"
        return self.process

    def _line(self, seconds: float) -> bytes | None:
        """Returns the next line of the worker; None if there is none in time, or none any more."""
        assert self.process is not None
        assert self.process.stdout is not None
        pipe = self.process.stdout.fileno()
        while b"\n" not in self.unread:
            ready, _, _ = select.select([pipe], [], [], seconds)
            more = os.read(pipe, 1 << 16) if ready else b""
            if not more:
                return None
            self.unread += more
        line, _, self.unread = self.unread.partition(b"\n")
        return line

    def _ended(self) -> str:
        """Takes the worker down, and returns what it died of."""
        assert self.process is not None
        try:
            code = self.process.wait(1.0)
        except subprocess.TimeoutExpired:
            self.close()
            return f"did not come back within {PATIENCE:.0f} s"
        self.close()
        return f"ended the process with {code}"
