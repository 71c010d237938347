"""What the benchmark of spectra makes of rows."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks import spectrum
from benchmarks.hides import CONSTRUCTIONS, NEVER, Place


def row(name: str, rank: float | None, excess: float | None) -> dict[str, Any]:
    bounds = None if excess is None else [excess - 0.1, excess, excess + 0.1]
    return {"construction": name, "seed": 0, "distance": 1.0, "stable rank": rank, "excess recovery": bounds}


RANKS, BACK = [1.0, 2.0, 3.0, 9.0, 9.5, 9.7, None], [1.0, 0.9, 0.05, 0.8, 0.0, 0.7, 1.0]
HIDDEN = [row(name, rank, back) for name, rank, back in zip(CONSTRUCTIONS, RANKS, BACK, strict=False)]
KNEW_NOTHING = [row(NEVER, 8.0 + seed / 10, 0.0) for seed in range(6)]


def given(monkeypatch: pytest.MonkeyPatch, *rows: dict[str, Any]) -> None:
    left = list(rows)
    monkeypatch.setattr(spectrum, "all_places", lambda: [Place(name=NEVER, seed=0)] * len(left))
    monkeypatch.setattr(spectrum, "kept", lambda _place: left.pop(0))


def test_small_ranks_are_compared_with_those_of_models_that_never_knew(monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, *HIDDEN, *KNEW_NOTHING)
    found = spectrum.measure()
    assert not isinstance(found, str)
    (claim,) = found.claims
    assert claim.measured == pytest.approx(2 / 3)
    assert not claim.holds
    assert found.setting["hidden targets with a larger stable rank"] == 3
    assert found.setting["of them came back"] == 2
    assert len(found.rows) == 12  # weights without a counterpart have no rank


def test_of_too_few_rows_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, *HIDDEN, *KNEW_NOTHING[:5])
    assert spectrum.measure() == "of hidden targets 6 rows are there, of models that never knew 5"


def test_order_alone_counts() -> None:
    rows = [row(NEVER, rank, 1 / rank) for rank in (1.0, 2.0, 50.0)]
    assert spectrum.correlation(rows) == pytest.approx(-1.0)
