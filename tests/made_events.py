"""Events of which a test says only what it is about."""

from __future__ import annotations

from typing import Any

import numpy as np

from redteam.evidence.events import BeforeEvent, CapabilityEvent, Event, Loss, PointRecord, TrialEvent
from redteam.evidence.evidence import Evidence


def evidence_of(*events: Event, samples: dict[tuple[str, str], np.ndarray] | None = None) -> Evidence:
    return Evidence(by_key={event.key: event for event in events}, samples=samples or {})


def point(steps: int, select: float = 0.0, utility: float = 1.0, **more: Any) -> PointRecord:
    return PointRecord(
        **{
            "steps": steps,
            "samples": steps,
            "tokens": steps,
            "flops": 1.0,
            "select": select,
            "utility": utility,
            **more,
        }
    )


def trial(key: str = "target/search/0000", *points: PointRecord, **changes: Any) -> TrialEvent:
    """Returns a trial that moved weights and lowered its loss, unless it is said otherwise."""
    whole: dict[str, Any] = {
        "key": key,
        "attack": "retrain",
        "version": 1,
        "params": {},
        "seed": 1,
        "state": "complete",
        "error": None,
        "diverged": False,
        "points": points,
        "loss": Loss(first=2.0, last=0.1),
        "share_moved": 0.9,
        "seconds": {},
        "value": None,
    }
    return TrialEvent(**whole | changes)


def before(role: str, select: float = 0.5, utility: float = 1.0, **more: Any) -> BeforeEvent:
    return BeforeEvent(**{"key": f"{role}/before", "select": select, "utility": utility, **more})


def capability(**changes: Any) -> CapabilityEvent:
    whole: dict[str, Any] = {
        "name": "birthdays",
        "chance": 0.0625,
        "groups": (0, 1),
        "select_groups": 40,
        "utility_chance": 0.0625,
        "seeds": 3,
        "budget": 6,
    }
    return CapabilityEvent(**whole | changes)
