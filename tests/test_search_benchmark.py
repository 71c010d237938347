"""What the benchmark of the search counts."""

from __future__ import annotations

from pathlib import Path

import pytest
from scipy.stats import hypergeom

from benchmarks import search
from benchmarks.search import _claim, median_first, rows_of


@pytest.mark.parametrize(("trials", "within"), [(600, 1), (600, 3), (600, 13), (60, 60), (200, 199), (5, 2)])
def test_the_median_place_of_the_first_that_is_within(trials: int, within: int) -> None:
    """None within n draws without replacement: the hypergeometric distribution at 0."""
    place = median_first(trials, within)
    assert hypergeom.cdf(0, trials, within, place) <= 0.5 + 1e-9
    assert place == 1 or hypergeom.cdf(0, trials, within, place - 1) > 0.5


def test_where_none_is_within_it_is_more_than_were_tried() -> None:
    assert median_first(600, 0) == 601


def rows(firsts: list[int | None], within: int) -> list[dict[str, object]]:
    suite = [{"target": "t", "search": "suite", "first": first} for first in firsts]
    return [*suite, *({"target": "t", "search": "random", "trials": 60, "within": within} for _ in range(10))]


def test_a_suite_that_half_the_time_never_comes_there_keeps_no_limit() -> None:
    assert not _claim(rows([1] * 5 + [None] * 5, 0), "t").holds
    claim = _claim(rows([1] * 6 + [None] * 4, 0), "t")
    assert claim.holds
    assert claim.measured == pytest.approx(1 / 601)
    assert _claim(rows([50] * 10, 0), "t").holds
    assert not _claim(rows([50] * 10, 1), "t").holds  # ten of 600: every second order has one among its first 40


def study(trials: list[float], again: float) -> dict[str, object]:
    return {"search": "", "torch": "", "by": "retrain", "again": again, "trials": trials}


def test_what_is_best_is_what_came_back_again_and_not_the_luckiest_trial() -> None:
    lucky, solid = study([0.1, 0.99], 0.6), study([0.5, 0.785, 0.82], 0.8)
    studies = {f"{kind} {n}": solid if n else lucky for kind in search.BUDGETS for n in range(search.STUDIES)}
    found = rows_of("t", studies)
    assert len(found) == 2 * search.STUDIES
    assert {row["best known"] for row in found} == {0.8}
    assert (found[0]["first"], found[0]["within"], found[0]["best of this study"]) == (2, 1, 0.99)
    assert (found[1]["first"], found[1]["within"], found[1]["trials"]) == (2, 2, 3)
    never = rows_of("t", studies | {"suite 0": study([0.1], 0.1)})[0]
    assert (never["first"], never["within"]) == (None, 0)


def test_what_was_measured_is_kept_study_by_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "PIECES", tmp_path / "pieces")
    search._keep(("facts", "tar"), "suite 0", study([0.25], 0.5))
    search._keep(("facts", "tar"), "random 0", study([], 0.5))
    search._keep(("facts", "tar"), "suite 0", study([1 / 3], 0.5))
    assert search._kept(("facts", "tar")) == {"suite 0": study([1 / 3], 0.5), "random 0": study([], 0.5)}
    assert search._kept(("facts", "rmu")) == {}
