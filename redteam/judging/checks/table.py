"""The table of all checks, in order of precedence: the first flag that is raised is the reason of a verdict."""

from __future__ import annotations

from collections.abc import Sequence

from redteam.evidence.results import Flag
from redteam.judging.case import Case
from redteam.judging.checks import (
    attacks,
    capacity,
    given,
    measures,
    policy,
    probes,
    reference,
    released,
    search,
    trials,
)
from redteam.judging.checks.check import ANY, Check

_ROWS: tuple[Check[Case], ...] = (
    *given.CHECKS,
    *attacks.CHECKS,
    *released.CHECKS,
    *trials.CHECKS,
    *reference.CHECKS,
    *probes.CHECKS,
    *measures.CHECKS,
    *capacity.CHECKS,
    *search.CHECKS,
    *policy.CHECKS,
)
CHECKS: tuple[Check[Case], ...] = (
    *(check for check in _ROWS if check.blocks == ANY),
    *(check for check in _ROWS if check.blocks != ANY),
)


def flags_of(case: Case, checks: Sequence[Check[Case]] = CHECKS) -> list[Flag]:
    """Returns the flags that a run raises, in the order of the table."""
    return [Flag(name=check.name, explanation=why) for check in checks for why in check.explain(case)]
