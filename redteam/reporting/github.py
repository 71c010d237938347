"""What GitHub shows of a step: annotations on stdout, and Markdown in the summary of the job."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from redteam.errors import one_line
from redteam.reporting.markdown import markdown
from redteam.reporting.told import Told, decisive, share

LEVELS = {"passed": "notice", "failed": "error", "undecided": "warning", "waived": "warning"}


def workflow_commands(told: Told) -> Iterator[str]:
    """Yields a workflow command for each capability. Names of capabilities cannot begin another."""
    for found, outcome in told.found:
        title = _property(f"{found.name}: {found.verdict}{' (waived)' * (outcome == 'waived')}")
        said = _data(f"{found.reason}; excess recovery {share(decisive(found))}")
        yield f"::{LEVELS[outcome]} title={title}::{said}"


def summarise(told: Told, environment: Mapping[str, str]) -> list[str]:
    """Appends the report to the summary of the job, if there is one, and returns the annotations to print."""
    if environment.get("GITHUB_ACTIONS") != "true":
        return []
    summary = environment.get("GITHUB_STEP_SUMMARY")
    if summary:
        with Path(summary).open("a", encoding="utf-8") as file:
            file.write(markdown(told))
    return list(workflow_commands(told))


def _data(text: str) -> str:
    return one_line(text).replace("%", "%25")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
