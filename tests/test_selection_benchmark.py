"""The simulation of runs: its truth is what it says, and what is measured of it is what a run would measure."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from benchmarks.selection import CHANCE, _answers, _row, _table, simulate
from benchmarks.selection_figure import DESIGNS, draw


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


def test_the_picture_shows_both_designs_at_every_row_and_is_the_same_every_time(tmp_path: Path) -> None:
    rows = json.loads(Path("results/benchmarks/selection.json").read_text())["rows"]
    for name in ("a.svg", "b.svg"):
        draw(rows, tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    drawn = ElementTree.parse(tmp_path / "a.svg")
    texts = {"".join(element.itertext()).strip() for element in drawn.iter("{http://www.w3.org/2000/svg}text")}
    assert {label for label, _ in DESIGNS.values()} <= texts
    for _, color in DESIGNS.values():
        points = [e for e in drawn.iter("{http://www.w3.org/2000/svg}use") if f"fill: {color}" in e.get("style", "")]
        assert len(points) >= 2 * len(rows)
