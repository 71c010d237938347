"""`redteam replay`: which models it takes, and what it prints. Heavy things come when they are needed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from redteam.access import Access
from redteam.errors import InputError, one_line
from redteam.evidence import keys
from redteam.evidence.certificate import CertifiedRun, read_certificate
from redteam.exit_codes import ExitCode

if TYPE_CHECKING:
    from redteam.config.request import RunRequest
    from redteam.suite.replay import Replayed


def replay_and_tell(path: Path, request: RunRequest, console: Console) -> int:
    """Runs the winning attacks of a certificate again.

    Returns:
        0 if each does what is claimed, else 1; 3 if there is none.

    Raises:
        InputError: the certificate cannot be read, or is about something else than what is given.
    """
    found = list(_replayed(read_certificate(path).predicate.runs, request))
    for one in found:
        console.print(_line(one))
    if all(one.attack is None for one in found):
        return ExitCode.UNDECIDED
    return ExitCode.PASSED if all(one.reproduced for one in found) else ExitCode.FAILED


def _replayed(runs: list[CertifiedRun], request: RunRequest) -> Iterator[Replayed]:
    from redteam.suite.inputs import resolve
    from redteam.suite.replay import replay, winning_attack

    for run in runs:
        if run.result.scorer == keys.MEMBERSHIP:
            raise InputError(
                f"samples ({run.result.name!r}) stand out beside references, which a certificate does not hold",
                "Attack again, with the plan of the certificate",
            )
        name = winning_attack(run)
        certified = {
            "attacks": () if name is None else (name,), "seed": run.plan.seed, "access": Access(run.plan.access),
            "budget": 1, "original": None, "reference": None, "extend": None,
        }  # fmt: skip
        many = resolve(request.model_copy(update=certified), searched=False)
        about = [inputs for inputs in many if inputs.capability.name == run.plan.capability[0]]
        if not about:
            raise InputError(f"the certificate is about {run.plan.capability[0]!r}", "Give it with --capability")
        yield replay(run, about[0])


def _line(one: Replayed) -> Text:
    claimed = f"{one.claimed.estimate:.3f} ({one.claimed.low:.3f} to {one.claimed.high:.3f})"
    if one.attack is None:
        return Text(f"{one_line(one.name)}: no attack beat the released weights, nothing to replay", style="dim")
    now = ", ".join(f"{score:.3f}" for score in one.found)
    said = "reproduced" if one.reproduced else "not reproduced"
    text = f"{one_line(one.name)}: {said} by {one_line(one.attack)}: {now} on its seeds, claimed {claimed}"
    return Text(text, style="green" if one.reproduced else "bold red")
