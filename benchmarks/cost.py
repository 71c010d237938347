"""What each method costs: FLOPs, wall time and peak memory over those of plain training. Leave the machine alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.claims import Claim, Measured
from redteam.judging.statistics import mean_over_seeds
from redteam.record import Cost
from redteam.registry import METHODS
from redteam.testbeds.build import TargetSpec, World, make_target, train_world

SEEDS, TESTBEDS = (0, 1, 2), ("facts", "digits")
QUIET = 1.15  # filtering makes the steps of plain training: where it takes longer, the machine was not quiet


def measure() -> Measured:
    """Trains each world, and builds every target of it in the same process; ratios are taken within one seed."""
    rows: list[dict[str, Any]] = []
    for testbed in TESTBEDS:
        ratios = [dict(costs_of(train_world(testbed, seed=seed))) for seed in SEEDS]
        rows += [{"testbed": testbed, **row_of(name, [run[name] for run in ratios])} for name in ratios[0]]
    seconds = [row["wall time"] for row in rows if row["method"] == "filtered"]
    return Measured(
        title="Cost of each method, in units of plain training",
        claims=[
            Claim(name="filtering, wall time at most", measured=max(seconds), must="<=", limit=QUIET),
            Claim(name="filtering, wall time at least", measured=min(seconds), must=">=", limit=1 / QUIET),
        ],
        rows=rows,
        setting={"testbeds": list(TESTBEDS), "seeds": list(SEEDS), "intervals": "95 %, Student t over seeds"},
    )


def costs_of(world: World) -> Iterator[tuple[str, tuple[float, float, float]]]:
    """Yields each method that works on a world, with its FLOPs, wall time and peak memory over plain training's."""
    for described in METHODS.described():
        name = described["name"]
        if world.testbed.kinds in described["kinds"] and described["when"] != "control":
            made, _ = make_target(TargetSpec(method=name), world)
            yield name, relative(made.costs["method"], world.plain)


def relative(cost: Cost, plain: Cost) -> tuple[float, float, float]:
    """Returns FLOPs, wall time and peak memory of a method over those of plain training."""
    return cost.flops / plain.flops, cost.seconds / plain.seconds, cost.peak_bytes / plain.peak_bytes


def row_of(method: str, ratios: list[tuple[float, float, float]]) -> dict[str, Any]:
    """Returns the row of a method: means over seeds, and the interval of the wall time."""
    flops, seconds, memory = (mean_over_seeds(values) for values in zip(*ratios, strict=True))
    return {
        "method": method,
        "FLOPs": flops.estimate,
        "wall time": seconds.estimate,
        "interval": [seconds.low, seconds.high],
        "peak memory": memory.estimate,
    }
