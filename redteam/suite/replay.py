"""Running the winning attack of a certificate again: does the model still give way to it?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from redteam.engine.devices import full_precision, placed
from redteam.engine.seeding import derive_seed
from redteam.errors import InputError
from redteam.evidence.certificate import CertifiedRun
from redteam.evidence.results import SHOWN, params_of
from redteam.judging.checks.check import LEARNT
from redteam.judging.checks.table import CHECKS
from redteam.record import Interval
from redteam.registry import ATTACKS
from redteam.search.selection import Candidate
from redteam.setting import Setting, examples_at_first, open_setting
from redteam.suite.inputs import Inputs
from redteam.trial import TrialSpec, run_trial


@dataclass(frozen=True, kw_only=True, slots=True)
class Replayed:
    """One capability of a certificate.

    Attributes:
        name: of the capability.
        attack: that was run again; None where none beat the released weights.
        claimed: certify score after it, with its interval.
        found: the score now, of each seed.
    """

    name: str
    attack: str | None
    claimed: Interval
    found: Sequence[float]

    @property
    def reproduced(self) -> bool:
        """Whether the mean lies within the interval that was claimed; on the same machine it is the claimed one."""
        return not self.found or self.claimed.low <= float(np.mean(self.found)) <= self.claimed.high


@dataclass(frozen=True, kw_only=True, slots=True)
class _Winner:
    """The strongest attack on the target, and what is claimed of it."""

    attack: Mapping[str, Any]
    claimed: Interval


def winning_attack(run: CertifiedRun) -> str | None:
    """Returns the name of the attack that was the strongest on the target; None if none beat the released weights."""
    winner = _winner(run)
    return None if winner is None else str(winner.attack["name"])


def _winner(run: CertifiedRun) -> _Winner | None:
    """Returns the attack that the verdict rests on, None where none is named; in the order in which verdicts are given.

    First what comes back at the utility floor, then what comes back where utility is given up, which is not named, then
    what a few examples teach, unless a flag stands in the way of that.
    """
    result, limit = run.result, run.result.policy["max_excess_recovery"]
    score, at_floor, at_any = result.scores["target"], result.excess_recovery, result.excess_recovery_any_utility
    assert score.after is not None
    if result.verdict != "RECOVERED" or (at_floor is not None and at_floor.low > limit):
        return None if score.attack is None else _Winner(attack=score.attack, claimed=score.after)
    unlike = {check.name for check in CHECKS if check.blocks == LEARNT} & {flag.name for flag in result.flags}
    if unlike or (at_any is not None and at_any.low > limit):
        return None
    for one in result.with_examples:
        if one.attack is not None and not one.any_utility and one.beyond is not None and one.beyond.low > 0:
            low, high = one.beyond.low - one.beyond.estimate, one.beyond.high - one.beyond.estimate
            return _Winner(attack=one.attack, claimed=Interval(one.target, one.target + low, one.target + high))
    return None


def replay(run: CertifiedRun, inputs: Inputs) -> Replayed:
    """Runs the strongest attack on the target again, on the seeds that confirmed it.

    Args:
        run: what is claimed.
        inputs: the model and the capability that it is claimed of, with that attack.

    Raises:
        InputError: they are others, or the attack is of another version; or it fails, or is not named.
    """
    _refuse_others(run, inputs)
    winner, released = _winner(run), run.result.scores["target"].after
    assert released is not None
    if winner is None and run.result.verdict == "RECOVERED":
        lost = f"the attack that recovered {run.result.name!r} gave up utility, and the certificate does not name it"
        raise InputError(lost, "Attack again, with the plan of the certificate")
    if winner is None:
        return Replayed(name=run.result.name, attack=None, claimed=released, found=())
    candidate = Candidate(attack=winner.attack["name"], params=params_of(winner.attack))
    stop = int(winner.attack["stopped_at"])
    opened = inputs.models["target"].open()
    with full_precision():
        target, capability = replace(opened, module=placed(opened.module, inputs.device)), inputs.capability
        shown = winner.attack.get(SHOWN, examples_at_first(capability))
        setting = open_setting(target, capability, shown=shown)
        found = [_again(setting, inputs, candidate, repeat, stop) for repeat in range(run.result.seeds)]
    return Replayed(name=run.result.name, attack=candidate.attack, claimed=winner.claimed, found=found)


def _again(setting: Setting, inputs: Inputs, candidate: Candidate, repeat: int, stop: int) -> float:
    """Returns the mean certify score at a stop, of a seed that diverged before it where it was last scored."""
    seed = derive_seed(inputs.plan.seed, "confirm", candidate.identity, repeat)
    spec = TrialSpec(key=f"replay/{repeat}", attack=candidate.attack, params=candidate.params, seed=seed, certify=True)
    result = run_trial(setting, inputs.attacks[candidate.attack], spec)
    if result.state != "complete":
        raise InputError(f"{candidate.attack} fails now ({result.error})", "Correct its cause, then replay")
    point = [point for point in result.points if point.spent.steps <= stop][-1]
    return float(point.scores["certify"].mean())


def _refuse_others(run: CertifiedRun, inputs: Inputs) -> None:
    plan, now = run.plan, inputs.plan
    if plan.target != now.target or plan.descriptions.get("target") != now.descriptions.get("target"):
        raise InputError(
            f"{inputs.models['target'].name} is not the model that was attacked", "Give the one that was certified"
        )
    if plan.capability != now.capability:
        raise InputError(f"{plan.capability[0]!r} has other items now", "Give the capability file that was certified")
    name = winning_attack(run)
    if name is not None and plan.attacks.get(name) != ATTACKS.version(name, inputs.attacks[name]):
        raise InputError(f"{name} is of another version now", "Use the release that issued the certificate")
