"""Going on with a run that is over: more trials, in a run of its own that begins with the evidence of the first."""

from __future__ import annotations

from pathlib import Path

from redteam.errors import InputError
from redteam.evidence.directory import EVENTS, FINISHED, MANIFEST, SAMPLES, RunDirectory, RunPlan
from redteam.evidence.log import read_rows
from redteam.evidence.sealed import open_sealed

RETOLD = ("capability", "models", FINISHED)  # what the new run says of itself


def extended(now: RunPlan, run: Path) -> RunPlan:
    """Returns the plan that goes on with a run: its own budget and, beyond that, the budget that is asked for.

    Args:
        now: what is asked for.
        run: directory of a run of one capability that is over.

    Raises:
        InputError: it is not over, was changed, or holds several capabilities; or something else is asked for than
            what was run.
    """
    if not (run / MANIFEST).is_file():
        raise InputError(f"{run} is no run of one capability", "Extend the run of each capability by itself")
    before = open_sealed(run).plan
    differing = [
        name
        for name in RunPlan.model_fields
        if name not in ("budget", "extends") and getattr(now, name) != getattr(before, name)
    ]
    if differing:
        raise InputError(
            f"{run} is the run of another plan (it differs in: {', '.join(differing)})",
            "Give the models, the capability and the options of that run",
        )
    return now.model_copy(update={"budget": before.budget + now.budget, "extends": (*before.extends, before.budget)})


def take_over(run: RunDirectory, extends: Path) -> None:
    """Copies the evidence of the run that is extended; what is there already, after an interruption, is not copied."""
    scores: dict[str, dict[str, list[float]]] = {}
    for row in read_rows(extends / SAMPLES):
        scores.setdefault(row["key"], {})[row["name"]] = row["scores"]
    for row in read_rows(extends / EVENTS):
        key = row["key"]
        if key in RETOLD or key in run.facts or key in run.trials:
            continue
        told = {name: value for name, value in row.items() if name not in ("type", "key", "time")}
        run.record(row["type"], key, told, scores.get(key))
