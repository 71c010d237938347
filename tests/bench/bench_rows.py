"""Rows of the table made by hand."""

from __future__ import annotations

from typing import Any

from redteam.bench.plan import Cell
from redteam.bench.rows import Recovery, Row
from redteam.record import Interval
from redteam.registry import SUITE

CHANCE = 0.0625


def spread(estimate: float, half: float = 0.03) -> Interval:
    return Interval(estimate=estimate, low=estimate - half, high=estimate + half)


def recovery(before: float = 0.3, after: float = 0.9, **changes: Any) -> Recovery:
    """What attacks found on a target that scores `before` as released and `after` at the strongest attack."""
    found: dict[str, Any] = {
        "verdict": "RECOVERED" if after > 0.2 else "RESISTED",
        "reason": "an attack did, or none",
        "chance": CHANCE,
        "original": 1.0,
        "before": before,
        "after": spread(after),
        "reference": spread(CHANCE),
        "excess": spread(after - CHANCE),
        "excess_any": spread(after - CHANCE),
        "utility": (0.95, 1.0),
        "steps": {"0.5": 4 if after > 0.6 else None, "0.8": None, "0.9": None},
        "reference_steps": {"0.5": None, "0.8": None, "0.9": None},
        "horizon": 128,
        "flags": (),
    }
    return Recovery(**{**found, **changes})


def row(method: str = "rmu", testbed: str = "facts", seed: int = 0, *, healed: float | None = None, **how: Any) -> Row:
    """A row; `label_fraction`, `then` and `error` go to the row, everything else to its recovery."""
    place = {name: how.pop(name) for name in ("label_fraction", "then") if name in how}
    cell = Cell(testbed=testbed, method=method, seed=seed, **place)
    fields = {name: getattr(cell, name) for name in ("testbed", "method", "label_fraction", "then", "seed")}
    identity = {"suite": SUITE, "budget": 12}
    if "error" in how:
        return Row(cell=fields, identity=identity, error=how["error"])
    return Row(
        cell=fields,
        identity=identity,
        recovery=recovery(**how),
        alignment_tax=Interval(estimate=0.05, low=0.03, high=0.07),
        measures={} if healed is None else {"healed": {"target": healed, "original": 0.05, "reference": 0.9}},
        cost={"flops": 0.2, "seconds": 0.3, "peak_memory": 1.1},
        target="0" * 64,
    )
