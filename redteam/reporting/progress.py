"""Progress on stderr: a bar on a terminal, a log line every few seconds elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from redteam.errors import one_line

LOG_EVERY = 15.0  # seconds between log lines where there is no terminal


class _Bar:
    """A bar with a line of text, opened and closed with the work it shows."""

    def __init__(self, console: Console, *columns: str) -> None:
        self._console = console
        self._bar = Progress(
            TextColumn("{task.description:<28}"),
            BarColumn(),
            MofNCompleteColumn(),
            *(TextColumn(column) for column in columns),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._logged = 0.0

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def _log(self, text: str, *, now: bool = False) -> None:
        if self._console.is_terminal:
            return
        if now or time.monotonic() - self._logged >= LOG_EVERY:
            self._logged = time.monotonic()
            self._console.print(text, markup=False, highlight=False)


class RunProgress(_Bar):
    """Shows a run: trials done, best recovery so far, time left."""

    def __init__(self, console: Console) -> None:
        super().__init__(console, "{task.fields[best]}")
        self._task: TaskID = self._bar.add_task("opening", total=None, best="")
        self._stage, self._best, self._done, self._total = "opening", 0.0, 0, 0

    def note(self, text: str) -> None:
        """Prints a line that stays."""
        self._console.print(f"note: {one_line(text)}", markup=False, highlight=False, soft_wrap=True)

    def plan(self, trials: int) -> None:
        """Sets the number of trials of the run."""
        self._total = trials
        self._bar.update(self._task, total=trials, completed=self._done)

    def stage(self, what: str) -> None:
        """Names what is being done; the best score is that of the model at hand."""
        self._stage, self._best = what, 0.0
        self._bar.update(self._task, description=escape(one_line(what)), best="")  # names are anybody's text
        self._log(one_line(what), now=True)

    def within(self, what: str) -> None:
        """Names what the stage is at; where there is no terminal every few seconds, as trials are."""
        told = f"{one_line(self._stage)}: {one_line(what)}"
        self._bar.update(self._task, description=escape(told))
        self._log(told)

    def trial(self, score: float | None) -> None:
        """Counts a trial."""
        self._done += 1
        self._best = max(self._best, score or 0.0)
        self._bar.update(self._task, completed=self._done, best=f"best {self._best:.2f}")
        self._log(f"{self._stage}: trial {self._done} of about {self._total}, best score {self._best:.2f}")


class BuildProgress(_Bar):
    """Shows how a target is built: one bar for each thing that is trained."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, what: str, done: int, total: int) -> None:
        """Takes the place of a method's `progress`."""
        if what not in self._tasks:
            self._tasks[what] = self._bar.add_task(what, total=total)
            self._log(what, now=True)
        self._bar.update(self._tasks[what], completed=done)
        self._log(f"{what}: step {done} of {total}")


class BenchProgress(_Bar):
    """Shows how many targets of the table are built and attacked."""

    def __init__(self, console: Console, targets: int) -> None:
        super().__init__(console)
        self._targets = targets
        self._task: TaskID = self._bar.add_task("building and attacking", total=targets)

    def __call__(self, done: int) -> None:
        """Hears how many are done."""
        self._bar.update(self._task, completed=done)
        self._log(f"{done} of {self._targets} targets are built and attacked")
