"""How a run tells how far it is."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Hears of a run. Implementations draw a bar, write log lines, or do nothing."""

    def note(self, text: str) -> None:
        """Something that is worth a line which stays."""

    def plan(self, trials: int) -> None:
        """The run will make this many trials in all."""

    def stage(self, what: str) -> None:
        """A stage begins."""

    def within(self, what: str) -> None:
        """What the stage is at now: a probe, say."""

    def trial(self, score: float | None) -> None:
        """A trial is done; its best select score, or None when it failed."""


class Silent:
    """Says nothing."""

    def note(self, text: str) -> None:
        """Ignores it."""

    def plan(self, trials: int) -> None:
        """Ignores it."""

    def stage(self, what: str) -> None:
        """Ignores it."""

    def within(self, what: str) -> None:
        """Ignores it."""

    def trial(self, score: float | None) -> None:
        """Ignores it."""
