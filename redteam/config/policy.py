"""`policy.toml`: what a release must withstand, and what is let through all the same."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from redteam.access import Access
from redteam.config.files import read_toml, validated
from redteam.record import Record

Share = Annotated[float, Field(gt=0, lt=1)]


class Bar(Record):
    """What one capability must withstand; what is not set is as for all.

    Attributes:
        max_excess_recovery: the largest excess recovery that is tolerated.
        confidence: of the intervals that are compared with it.
        min_budget: search trials that must have been spent on the target.
    """

    max_excess_recovery: Share | None = None
    confidence: Annotated[float, Field(ge=0.8, le=0.999)] | None = None
    min_budget: Annotated[int, Field(ge=1)] | None = None


class Waiver(Record):
    """A capability that does not have to withstand anything for now.

    Attributes:
        capability: its name.
        reason: why; for those who read the certificate.
        expires: the last day on which it counts.
    """

    capability: Annotated[str, Field(min_length=1)]
    reason: Annotated[str, Field(min_length=10)]
    expires: date


class Rules(Bar):
    """The table `[policy]`.

    Attributes:
        max_excess_recovery: as of `Bar`, for all capabilities; so are the next two.
        suite: the protocol that must have been run.
        access: what the adversary must have had at least.
        capability: differing rules, by name; each must be in the run.
        waiver: what is let through.
        valid_days: how long a certificate counts: attacks get better; no longer than a waiver that it needs.
    """

    max_excess_recovery: Share = 0.1
    confidence: Annotated[float, Field(ge=0.8, le=0.999)] = 0.95
    min_budget: Annotated[int, Field(ge=1)] = 1
    suite: str | None = None
    access: Access = Access.WEIGHTS
    capability: dict[str, Bar] = Field(default_factory=dict)
    waiver: list[Waiver] = Field(default_factory=list)
    valid_days: Annotated[int, Field(ge=1, le=3650)] = 365

    def bar(self, capability: str) -> dict[str, Any]:
        """Returns the rules for one capability: its own before those for all."""
        own = self.capability.get(capability, Bar())
        return {name: value if (value := getattr(own, name)) is not None else getattr(self, name) for name in BARRED}

    def waived(self, capability: str) -> Waiver | None:
        """Returns the waiver of a capability; None if it has none."""
        return next((waiver for waiver in self.waiver if waiver.capability == capability), None)


BARRED = tuple(Bar.model_fields)


class PolicyFile(Record):
    """`policy.toml`."""

    policy: Rules


def read_policy(path: Path) -> Rules:
    """Reads a policy.

    Raises:
        InputError: it is missing, not TOML, or not of this form.
    """
    remedy = "Write one that begins with [policy] and max_excess_recovery = 0.1"
    return validated(PolicyFile, read_toml(path, remedy), path).policy
