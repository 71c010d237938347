"""The same table on text that nobody here wrote: the testbed `birthdays`, three seeds of training."""

from __future__ import annotations

import os
import shutil
from typing import Any

from benchmarks.claims import Measured
from benchmarks.ground_truth import MODELS, RUNS, VERDICTS, row_of, verdict_claims
from redteam.suite.standard import attack
from redteam.testbeds.build import TargetSpec, train_world, write_target

SEEDS, BUDGET = (0, 1, 2), 12


def measure() -> Measured | None:
    """Trains on the corpora, unlearns with each method, and attacks what comes out; None without the data."""
    if "REDTEAM_DATA" not in os.environ:
        return None
    rows: list[dict[str, Any]] = []
    for seed in SEEDS:
        world = train_world("birthdays", seed=seed)
        for method in VERDICTS:
            target = MODELS / f"birthdays-{seed}" / method
            write_target(TargetSpec(method=method), world, target)
            for name, attacks in (("standard", ()), ("noop", ("noop",))):
                out = RUNS / f"birthdays-{seed}-{method}-{name}"
                shutil.rmtree(out, ignore_errors=True)  # a finished run would only be judged again
                found = attack(target, budget=BUDGET, attacks=attacks, seed=seed, out=out)
                rows.append({"seed": seed, "target": method, "attack": name, **row_of(found)})
    return Measured(
        title="Ground truth: birthdays, three seeds of training",
        # With four choices an interval is twice as wide as with sixteen, so a run may honestly not be able to tell.
        claims=verdict_claims(rows, inconclusive=True),
        rows=rows,
        setting={"testbed": "birthdays", "budget": BUDGET, "seeds": list(SEEDS)},
    )
