"""The same table on text that nobody here wrote: the testbed `birthdays`, three seeds of training."""

from __future__ import annotations

import os

from benchmarks.claims import Measured
from benchmarks.ground_truth import BUDGET, SEEDS, rows_of_worlds, verdict_claims


def measure() -> Measured | str:
    """Trains on the corpora, unlearns with each method, and attacks what comes out; without the data says so."""
    if "REDTEAM_DATA" not in os.environ:
        return "set REDTEAM_DATA to the folder of the real data"
    rows = rows_of_worlds("birthdays", SEEDS)
    return Measured(
        title="Ground truth: birthdays, three seeds of training",
        # With four choices an interval is twice as wide as with sixteen, so a run may honestly not be able to tell.
        claims=verdict_claims(rows, inconclusive=True),
        rows=rows,
        setting={"testbed": "birthdays", "budget": BUDGET, "seeds": list(SEEDS)},
    )
