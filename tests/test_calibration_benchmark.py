"""The simulation of runs: its truth is what it says, and what is measured of it is what a run would measure."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.calibration import CHANCE, _answers, _row, _table, simulate


@pytest.mark.parametrize("rate", [0.0625, 0.3, 0.9])
def test_facts_and_seeds_are_answered_at_the_rate_that_is_meant(rate: float) -> None:
    rng = np.random.default_rng(0)
    level = np.interp(rate, *_table())
    answered = _answers(rng, np.full(400, level), rng.normal(0, 1, 2000))
    assert answered.mean() == pytest.approx(rate, abs=0.02)
    assert 0.15 < np.log(answered.mean(axis=1) / (1 - answered.mean(axis=1))).std() < 0.25  # seeds differ


def test_a_run_is_told_by_its_number() -> None:
    assert simulate((0.5, 3)) == simulate((0.5, 3))
    assert simulate((0.5, 3)) != simulate((0.5, 4))


def test_what_never_knew_recovers_nothing_in_truth_and_the_naive_design_says_otherwise() -> None:
    runs = [simulate((CHANCE, number)) for number in range(20)]
    assert {run.truth for run in runs} == {run.naive_truth for run in runs} == {0.0}
    row = _row(CHANCE, runs)
    assert row["RESISTED"] + row["RECOVERED"] + row["INCONCLUSIVE"] == 20
    assert abs(row["bias"]) < 0.02 < row["naive: bias"]
