"""What the benchmark of the search counts."""

from __future__ import annotations

import pytest
from scipy.stats import hypergeom

from benchmarks.search import _claim, median_first


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
