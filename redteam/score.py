"""`redteam score`: what models score as they are, told. Heavy things come when they are needed."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from typing import TYPE_CHECKING

import typer
from rich.console import Console

from redteam.options import Format

if TYPE_CHECKING:
    from redteam.config.request import RunRequest


def score_and_tell(request: RunRequest, format: Format) -> None:
    """Scores the models on each capability, and prints what they score.

    Raises:
        InputError: something given cannot be used.
    """
    from redteam.reporting.progress import RunProgress
    from redteam.reporting.scored import print_scored, scored_json

    with RunProgress(Console(stderr=True)) as progress, redirect_stdout(sys.stderr):
        from redteam.suite.inputs import resolve
        from redteam.suite.scored import score_models

        found = [score_models(inputs, progress) for inputs in resolve(request)]
    if format is Format.JSON:
        typer.echo(scored_json(found), nl=False)
    else:
        print_scored(found, Console())
