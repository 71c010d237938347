"""`redteam attack`: what is said before a run, meanwhile, and afterwards. Heavy things come when they are needed."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console

from redteam.options import Format

if TYPE_CHECKING:
    from redteam.config.policy import Rules
    from redteam.config.request import RunRequest
    from redteam.judging.preview import RunPreview
    from redteam.judging.verdict import Policy
    from redteam.suite.inputs import Inputs


def plan_and_tell(request: RunRequest, format: Format, policy: Path | None) -> int:
    """Says what would be run and what it could show. Returns the exit code.

    Raises:
        InputError: something given cannot be used.
    """
    from redteam.config.policy import read_policy
    from redteam.reporting.previews import previews_json, print_previews

    rules = None if policy is None else read_policy(policy)
    with redirect_stdout(sys.stderr):
        many = _previews(_resolved(request, rules), rules)
    if format is Format.JSON:
        typer.echo(previews_json(many), nl=False)
    else:
        print_previews(many, Console())
    return 0


def attack_and_tell(request: RunRequest, format: Format, policy: Path | None) -> int:
    """Attacks, prints what was found and, by a policy, what the gate decides. Returns the exit code.

    Raises:
        InputError: something given cannot be used.
    """
    from redteam.checkpoints.hub import located
    from redteam.checkpoints.identify import identify
    from redteam.config.capability import code_in
    from redteam.config.policy import read_policy
    from redteam.release import certify, show_certificate
    from redteam.reporting.console import print_results
    from redteam.reporting.progress import RunProgress

    rules = None if policy is None else read_policy(policy)
    if isinstance(request.target, Path):
        identify(located(request.target))  # a mistyped path is told at once, not after seconds of imports
    if request.arch is not None:
        typer.echo(f"{request.arch} is code of yours and is run to build the model", err=True)
    capabilities = [place for place in request.capability if isinstance(place, Path)]
    remarks = (f"{place} {said}" for capability in capabilities for place, said in code_in(capability).items())
    for remark in dict.fromkeys(remarks):
        typer.echo(remark, err=True)

    # What an attack, a task or an architecture of the user's prints is not part of the results.
    with RunProgress(Console(stderr=True)) as progress, redirect_stdout(sys.stderr):
        from redteam.suite.several import run_all

        many = _resolved(request, rules)
        for remark in dict.fromkeys(said for one in _previews(many, rules) for said in (*one.remarks, one.power)):
            progress.note(remark)
        finished = run_all(many, progress)
    if format is Format.JSON:
        typer.echo((finished.path / "results.json").read_text(encoding="utf-8"), nl=False)
    else:
        print_results(finished.results, finished.path, Console())
    if rules is None:
        return finished.results.exit_code
    certificate = certify(finished.path, rules, runs=finished.runs)
    return show_certificate(*certificate, Console(stderr=format is Format.JSON))


def _resolved(request: RunRequest, rules: Rules | None) -> list[Inputs]:
    """Returns all that is to be run; what cannot be used is refused now, before hours of work."""
    from redteam.judging.gate import refuse_unusable
    from redteam.suite.inputs import resolve

    many = resolve(request)
    if rules is not None:
        refuse_unusable(rules, [inputs.capability.name for inputs in many], datetime.now(UTC).date())
    return many


def _previews(many: list[Inputs], rules: Rules | None) -> list[RunPreview]:
    """Returns what each run could show; of what is waived no more is asked than is usual."""
    from redteam.judging.gate import policy_for
    from redteam.judging.verdict import STANDARD_POLICY
    from redteam.suite.several import preview

    def policy(name: str) -> Policy:
        return STANDARD_POLICY if rules is None or rules.waived(name) else policy_for(rules, name)

    return [preview(inputs, policy(inputs.capability.name)) for inputs in many]
