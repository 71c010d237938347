"""Markdown, for a step's summary in CI or a section of a model card. Names in it are anybody's, and never markup."""

from __future__ import annotations

import re

from redteam.errors import one_line
from redteam.evidence.results import CapabilityResult
from redteam.reporting.told import Outcome, Told, decisive, share

MARKS = {"passed": "✅", "failed": "❌", "undecided": "❔", "waived": "⏳"}
SPECIAL = re.compile(r"([\\`*_{}\[\]()<>#+!|~&@:-])")


def markdown(told: Told) -> str:
    """Returns a report: one table, and for each capability why."""
    title = "Can what was unlearned be brought back?"
    decided = "" if told.decision is None else f"**The gate: {told.decision}.** "
    lines = [
        f"## {title}",
        "",
        f"{decided}{plain(told.model)} (`{told.sha256[:12]}`), attacked by {plain(told.suite)}.",
        "",
        "| capability | verdict | excess recovery | allowed | before → after | never knew | trials | |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        *(_row(found, outcome) for found, outcome in told.found),
        "",
        *(f"- {plain(found.name)}: {plain(found.reason)}." for found, _ in told.found),
    ]
    flags = [
        f"- {plain(found.name)}: {flag.name}, {plain(flag.explanation)}"
        for found, _ in told.found
        for flag in found.flags
    ]
    lines += ["", "Self-checks that were raised:", "", *flags] if flags else []
    lines += ["", *(f"> - {plain(line)}" for line in told.limitations)] if told.limitations else []
    return "\n".join(lines) + "\n"


def _row(found: CapabilityResult, outcome: Outcome) -> str:
    target, reference = found.scores["target"], found.scores.get("reference")
    after = "" if target.after is None else f" → {target.after.estimate:.2f}"
    never = "" if reference is None or reference.after is None else f"{reference.after.estimate:.2f}"
    cells = [
        plain(found.name),
        found.verdict,
        share(decisive(found)),
        f"{found.policy['max_excess_recovery']:.1%}",
        f"{target.before:.2f}{after}",
        never,
        str(found.budget.spent),
        f"{MARKS[outcome]} {outcome}",
    ]
    return f"| {' | '.join(cells)} |"


def plain(text: str) -> str:
    """Returns a text of one line in which nothing is markup, a link, or a mention."""
    return SPECIAL.sub(r"\\\1", one_line(text))
