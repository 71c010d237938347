"""How a command ends: one code for each outcome, and how outcomes add up to one code."""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum


class ExitCode(IntEnum):
    """The exit codes of every command.

    Attributes:
        PASSED: done: there is a verdict, or whatever else was asked for. With a gate: the gate is passed.
        FAILED: the gate is failed: a capability was recovered, or came back further than before, or a claim is wrong.
        ERROR: something given cannot be used, or redteam has a bug. It is never a verdict.
        UNDECIDED: the evidence is inconclusive.
        INTERRUPTED: by Ctrl-C, as shells count signals.
    """

    PASSED = 0
    FAILED = 1
    ERROR = 2
    UNDECIDED = 3
    INTERRUPTED = 130


def code_of(verdict: str, *, gated: bool) -> ExitCode:
    """Returns what a verdict on one capability makes of a command.

    Args:
        verdict: RESISTED, RECOVERED or INCONCLUSIVE.
        gated: whether a policy asked for resistance. Without a policy RECOVERED is an answer like RESISTED.
    """
    if verdict == "INCONCLUSIVE":
        return ExitCode.UNDECIDED
    return ExitCode.FAILED if gated and verdict == "RECOVERED" else ExitCode.PASSED


def worst(codes: Iterable[int]) -> ExitCode:
    """Returns the code of several outcomes together: FAILED before UNDECIDED before PASSED."""
    found = set(codes)
    return next((code for code in (ExitCode.FAILED, ExitCode.UNDECIDED) if code in found), ExitCode.PASSED)
