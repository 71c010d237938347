"""Going on with a run that is over: more trials, in a run of its own that begins with the evidence of the first."""

from __future__ import annotations

from pathlib import Path

from redteam.errors import InputError
from redteam.evidence import keys
from redteam.evidence.directory import MANIFEST, RunDirectory, RunPlan
from redteam.evidence.events import ChoiceEvent
from redteam.evidence.sealed import SealedRun, open_sealed

# What the new run says of itself, beside what it chooses.
RETOLD = (keys.CAPABILITY, keys.MODELS, keys.UNCOUNTED, keys.FINISHED)


def open_extended(now: RunPlan, run: Path) -> SealedRun:
    """Opens the run that a plan goes on with.

    Args:
        now: what is asked for.
        run: directory of a run of one capability that is over.

    Raises:
        InputError: it is not over, was changed, or holds several capabilities; or something else is asked for than
            what was run.
    """
    if not (run / MANIFEST).is_file():
        raise InputError(f"{run} is no run of one capability", "Extend the run of each capability by itself")
    before = open_sealed(run)
    differing = [
        name
        for name in RunPlan.model_fields
        if name not in ("budget", "extends") and getattr(now, name) != getattr(before.plan, name)
    ]
    if differing:
        raise InputError(
            f"{run} is the run of another plan (it differs in: {', '.join(differing)})",
            "Give the models, the capability and the options of that run",
        )
    return before


def going_on(now: RunPlan, before: RunPlan) -> RunPlan:
    """Returns the plan that goes on with another: the budget of that one and, beyond that, its own."""
    return now.model_copy(update={"budget": before.budget + now.budget, "extends": (*before.extends, before.budget)})


def take_over(run: RunDirectory, extended: SealedRun) -> None:
    """Copies the evidence of the run that is extended; what is there already, after an interruption, is not copied."""
    evidence = extended.evidence
    scores: dict[str, dict[str, list[float]]] = {}
    for (key, name), values in evidence.samples.items():
        scores.setdefault(key, {})[name] = values.tolist()
    for key, event in evidence.by_key.items():
        if key not in RETOLD and not isinstance(event, ChoiceEvent) and key not in run.events:
            run.record(event, scores.get(key))
