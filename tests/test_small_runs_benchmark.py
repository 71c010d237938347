"""What the benchmark of small real runs computes of a run, beside what the run says itself."""

from __future__ import annotations

import numpy as np
import pytest
from made_events import evidence_of, trial

from benchmarks.small_runs import SIZES, naive_excess, small_capability
from redteam.evidence.evidence import Evidence

ITEMS = 40


def evidence(**selected: float | None) -> Evidence:
    """A run whose trials were right on the first so many select items; None for one that failed before any."""
    samples = {("original/before", "select"): np.ones(ITEMS), ("target/before", "select"): np.zeros(ITEMS)}
    trials = []
    for name, share in selected.items():
        role, number = name.split("_")
        key = f"{role}/search/{int(number):04d}"
        trials.append(trial(key))
        if share is not None:
            samples[key, "select@8"] = (np.arange(ITEMS) < share * ITEMS).astype(np.float64)
    return evidence_of(*trials, samples=samples)


def test_the_naive_design_takes_the_best_trial_and_the_first_of_the_reference() -> None:
    found = naive_excess(evidence(target_0=0.25, target_1=0.75, target_2=None, reference_0=0.5, reference_1=0.9))
    assert found is not None
    assert found.raw == pytest.approx((0.75 - 0.5) / (1 - 0.5))
    assert found.bounds.low < found.raw < found.bounds.high


def test_where_every_trial_failed_nothing_came_back() -> None:
    found = naive_excess(evidence(target_0=None, reference_0=0.0))
    assert found is not None
    assert found.raw == 0.0


def test_every_fact_is_a_group_of_its_own_and_in_one_split() -> None:
    first, second = small_capability(0), small_capability(1)
    assert {split: len(getattr(first, split)) for split in SIZES} == SIZES
    items = [item for split in SIZES for item in getattr(first, split)]
    assert len({item.group for item in items}) == len(items)
    assert first.sha256 != second.sha256
