"""The simulated comparisons are what they say: rates, spreads, ties between facts; and a row tells what was said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from benchmarks import calibration
from benchmarks.calibration import REGIMES, claims_of, row_of, simulated
from benchmarks.calibration_figure import ERRORS, TOLD, draw
from benchmarks.simulated import Regime, World, outcome

FEW = Regime(name="few", sizes=(1,) * 40)


def world(**changes) -> World:
    return World(replace(Regime(name="w", sizes=(1,) * 4000), **changes), np.random.default_rng(0))


@pytest.mark.parametrize(("mean", "deviation"), [(0.3, 0.05), (0.0625, 0.02), (0.5, 0.15)])
def test_seeds_and_trainings_differ_as_they_are_said_to(mean: float, deviation: float) -> None:
    drawn = world().drawn(mean, deviation, 20_000)
    assert drawn.mean() == pytest.approx(mean, abs=0.005)
    assert drawn.std() == pytest.approx(deviation, rel=0.03)
    assert set(world().drawn(mean, 0.0, 3)) == {mean}


@pytest.mark.parametrize(("firm", "low", "high"), [(0.0, -0.05, 0.05), (0.5, 0.2, 0.5), (1.0, 0.999, 1.0)])
def test_what_a_seed_brings_back_another_brings_back_too(firm: float, low: float, high: float) -> None:
    one, other = world().answers(np.array([0.3, 0.3]), firm)
    assert one.mean() == pytest.approx(0.3, abs=0.03)
    assert low <= np.corrcoef(one, other)[0, 1] <= high


def test_items_of_one_fact_are_alike() -> None:
    answered = world(sizes=(4,) * 1000).answers(np.array([0.3]), 1.0)[0].reshape(1000, 4)
    assert np.corrcoef(answered.T)[0, 1] > 0.5


def test_the_same_number_is_the_same_run() -> None:
    assert outcome(FEW, 0.1, 3) == outcome(FEW, 0.1, 3)
    assert len({outcome(FEW, 0.1, number).covered for number in range(60)}) <= 2


def test_of_a_target_above_its_reference_by_nothing_nothing_is_recovered() -> None:
    row = simulated(replace(FEW, sizes=(1,) * 100), 30)
    assert row["0 % RESISTED"] > 0.6
    assert row["30 % RECOVERED"] > 0.9
    assert max(row[error] for error in ERRORS) < 0.2


def test_too_few_facts_say_nothing() -> None:
    """Five facts of twenty items and 25 of one count as seven."""
    row = simulated(next(regime for regime in REGIMES if "5 facts of 20" in regime.name), 10)
    assert {row[name] for name in (*ERRORS, *TOLD)} == {0.0}


def test_each_regime_is_kept_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "PIECES", tmp_path)
    monkeypatch.setattr(calibration, "RUNS", 2)
    first = row_of(FEW)
    monkeypatch.setattr(calibration, "simulated", lambda regime, runs: pytest.fail("simulated again"))
    assert row_of(FEW) == first
    monkeypatch.setattr(calibration, "simulated", lambda regime, runs: {"regime": "anew"})
    assert row_of(replace(FEW, never=0.2)) == {"regime": "anew"}
    files = [calibration._file_name(regime.name) for regime in REGIMES]
    assert len(set(files)) == len({regime.name for regime in REGIMES}) == len(REGIMES)


def rows() -> list[dict]:
    return [
        {"regime": regime.name, **dict.fromkeys(ERRORS, 0.02), **dict.fromkeys(TOLD, 0.9), "coverage": 0.96}
        for regime in REGIMES
    ]


@pytest.mark.parametrize("column", [*ERRORS, "coverage", "0 % RESISTED"])
def test_the_worst_regime_breaks_a_claim(column: str) -> None:
    assert all(claim.holds for claim in claims_of(rows()))
    wrong = rows()
    wrong[1][column] = 0.058 if column in ERRORS else 0.5
    broken = [claim.name for claim in claims_of(wrong) if not claim.holds]
    assert broken
    assert column not in ERRORS or REGIMES[1].name in broken[0]


def test_the_picture_shows_every_regime(tmp_path: Path) -> None:
    draw(rows(), tmp_path / "a.svg")
    drawn = ElementTree.parse(tmp_path / "a.svg")
    texts = {"".join(element.itertext()).strip() for element in drawn.iter("{http://www.w3.org/2000/svg}text")}
    assert {regime.name for regime in REGIMES} | set(ERRORS) | set(TOLD) <= texts
