"""One row of the table of checks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

Blocks = Literal["any verdict", "RESISTED", "RESISTED, and RECOVERED by what a few examples teach"]
ANY: Blocks = "any verdict"  # what is measured is not what a verdict speaks of
RESISTED: Blocks = "RESISTED"  # something may have been missed; what was found was found
LEARNT: Blocks = "RESISTED, and RECOVERED by what a few examples teach"  # models that learn differently were compared

# Contravariant: a check that needs to know little of a run can be made of all that is known of it.
Subject = TypeVar("Subject", contravariant=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class Check(Generic[Subject]):
    """A self-check of a run, and the flag that it raises.

    Attributes:
        name: of the flag. It is stable.
        blocks: the verdicts that the flag stands in the way of. A flag against any verdict is one against RESISTED too.
        when: when the flag is raised, as `docs/flags.md` says it after "raised if".
        remedy: what to do about it, as an imperative.
        explain: yields what was found, once for every reason to raise the flag. Of several the last is quoted.
    """

    name: str
    blocks: Blocks
    when: str
    remedy: str
    explain: Callable[[Subject], Iterable[str]]
