"""A badge, in the JSON that shields.io's endpoint badges read."""

from __future__ import annotations

import json

from redteam.reporting.told import Told

SAYS = {"passed": ("resisted", "brightgreen"), "failed": ("recovered", "red"), "undecided": ("inconclusive", "yellow")}


def badge(told: Told) -> str:
    """Returns what is worst among the capabilities, and of what resisted by how much at most."""
    outcomes = {outcome for _, outcome in told.found}
    worst = next((name for name in ("failed", "undecided", "passed") if name in outcomes), None)
    message, colour = SAYS[worst] if worst else ("waived", "lightgrey")
    most = [
        found.excess_recovery.high for found, outcome in told.found if outcome == "passed" and found.excess_recovery
    ]
    if worst == "passed":
        message += f", at most {max(most):.1%} back"
    if worst and "waived" in outcomes:
        message += ", some waived"
        colour = "yellow" if worst == "passed" else colour
    content = {"schemaVersion": 1, "label": "unlearning", "message": message, "color": colour}
    return json.dumps(content, indent=2) + "\n"
