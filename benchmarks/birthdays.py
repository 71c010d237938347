"""The same table on text that nobody here wrote: the people of `examples/birthdays`, three seeds of training."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from benchmarks.claims import Measured
from benchmarks.ground_truth import MODELS, RUNS, VERDICTS, row_of, verdict_claims
from redteam.suite.standard import attack

SEEDS, BUDGET = (0, 1, 2), 12
EXAMPLE = Path("examples/birthdays/build.py")


def measure() -> Measured | None:
    """Trains on the corpora, unlearns with each method, and attacks what comes out; None without the data."""
    if "REDTEAM_DATA" not in os.environ:
        return None
    example = _example()
    rows: list[dict[str, Any]] = []
    for seed in SEEDS:
        models = example.train(seed, lambda *_: None)
        for method in VERDICTS:
            target = MODELS / f"birthdays-{seed}" / method
            example.write(method, models, target)
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
        setting={"capability": "examples/birthdays/birthdays.toml", "budget": BUDGET, "seeds": list(SEEDS)},
    )


def _example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("birthdays_example", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look their annotations up there
    spec.loader.exec_module(module)
    return module
