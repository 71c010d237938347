"""What the benchmark of families compares."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.families import _contested, _differences, _no_weaker


def rows(
    suite: list[float], mixture: list[float], again: tuple[list[float], list[float]] | None = None
) -> list[dict[str, Any]]:
    """Rows of one target over three seeds of training."""
    repeated = again or ([None] * 3, [None] * 3)
    return [
        {"testbed": "facts", "target": "ssd", "seed": seed, "attack": attack, "after": after[seed], "again": more[seed]}
        for attack, after, more in zip(("suite", "mixture"), (suite, mixture), repeated, strict=True)
        for seed in range(3)
    ]


KEY = ("facts", "ssd", "mixture")


def test_a_family_is_contested_if_it_looks_stronger_on_average() -> None:
    assert _contested(rows([0.5, 0.5, 0.5], [0.7, 0.4, 0.3])) == frozenset()
    assert _contested(rows([0.5, 0.5, 0.5], [0.9, 0.4, 0.3])) == {KEY}


def test_fixed_rates_are_not_contested() -> None:
    renamed = [
        row | {"attack": row["attack"].replace("mixture", "retrain at 2e-05")} for row in rows([0.1] * 3, [0.9] * 3)
    ]
    assert _contested(renamed) == frozenset()


def test_what_was_contested_is_compared_on_fresh_seeds_alone() -> None:
    lucky = rows([0.5, 0.5, 0.5], [0.9, 0.5, 0.5], again=([0.6, 0.5, 0.5], [0.6, 0.5, 0.4]))
    assert _differences(lucky)[KEY] == pytest.approx([0.0, 0.0, 0.1])
    assert _no_weaker(lucky).holds
    stronger = rows([0.5, 0.5, 0.5], [0.9, 0.5, 0.5], again=([0.5, 0.5, 0.5], [0.6, 0.6, 0.5]))
    assert not _no_weaker(stronger).holds
    assert "mixture on facts ssd" in _no_weaker(stronger).name
