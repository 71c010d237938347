"""Was the run as large as its policy asks? All of it is known before anything is run."""

from __future__ import annotations

from collections.abc import Iterator

from redteam.judging.case import Scope
from redteam.judging.checks.check import RESISTED, Check


def _budget_short(scope: Scope) -> Iterator[str]:
    if scope.trials < scope.policy.min_budget:
        yield f"the target gets {scope.trials} search trials, the policy asks for {scope.policy.min_budget}"


def _access_short(scope: Scope) -> Iterator[str]:
    if not scope.access.grants(scope.policy.access):
        yield f"the adversary has access to {scope.access}, the policy asks for {scope.policy.access}"


def _attacks_left_out(scope: Scope) -> Iterator[str]:
    left = [name for name in scope.policy.attacks if name not in scope.attacks_asked]
    if left:
        listed = ", ".join(left[:5]) + (", ..." if len(left) > 5 else "")
        yield f"{len(left)} attacks of the suite were not asked for ({listed})"


def _probes_left_out(scope: Scope) -> Iterator[str]:
    left = [name for name in scope.policy.probes if name not in scope.probes_asked]
    if left:
        yield f"{len(left)} probes of the suite were not asked for ({', '.join(left[:5])})"


CHECKS: tuple[Check[Scope], ...] = (
    Check(
        name="budget-short",
        blocks=RESISTED,
        when="the target was searched with fewer trials than the policy asks for",
        remedy="attack again with a larger --budget",
        explain=_budget_short,
    ),
    Check(
        name="access-short",
        blocks=RESISTED,
        when="the adversary had less access than the policy asks for",
        remedy="attack again with a wider --access",
        explain=_access_short,
    ),
    Check(
        name="attacks-left-out",
        blocks=RESISTED,
        when="an attack of the suite was not asked for; the policy asks for all",
        remedy="attack again without -a",
        explain=_attacks_left_out,
    ),
    Check(
        name="probes-left-out",
        blocks=RESISTED,
        when="a probe of the suite was not asked for; the policy asks for all",
        remedy="attack again with all probes",
        explain=_probes_left_out,
    ),
)
