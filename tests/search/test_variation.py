from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from redteam.search.variation import vary

RANGES = {
    "family": CategoricalDistribution(["a", "b"]),
    "rate": FloatDistribution(1e-6, 1e-1, log=True),
    "share": FloatDistribution(0.0, 1.0),
    "samples": IntDistribution(1, 300, log=True),
    "optimizer": CategoricalDistribution(["adamw", "sgd", "lion"]),
}
PARAMS = {"family": "a", "rate": 1e-3, "share": 0.5, "samples": 40, "optimizer": "sgd"}


@given(st.integers(0, 2**32))
def test_a_variation_lies_within_its_ranges(seed):
    varied = vary([(0.5, PARAMS, RANGES)], seed, kept="family")
    assert varied.keys() == PARAMS.keys()
    assert varied["family"] == "a"
    assert all(RANGES[name]._contains(RANGES[name].to_internal_repr(value)) for name, value in varied.items())


@pytest.mark.parametrize(("value", "edge"), [(1e-6, "low"), (1e-1, "high")])
def test_a_step_beyond_the_range_ends_at_its_edge(value, edge):
    params, ranges = {"rate": value}, {"rate": RANGES["rate"]}
    found = [vary([(1.0, params, ranges)], seed, kept="family")["rate"] for seed in range(200)]
    assert found.count(getattr(RANGES["rate"], edge)) > 50
    assert min(found) >= 1e-6
    assert max(found) <= 1e-1


def test_steps_are_local_and_some_parameters_stay():
    found = [vary([(0.5, PARAMS, RANGES)], seed, kept="family") for seed in range(500)]
    changed = Counter(name for varied in found for name in varied if varied[name] != PARAMS[name])
    assert changed["family"] == 0
    assert all(100 < changed[name] < 300 for name in ("rate", "share", "samples", "optimizer"))
    steps = [math.log10(varied["rate"] / 1e-3) for varied in found if varied["rate"] != 1e-3]
    assert 0.5 < math.sqrt(sum(step**2 for step in steps) / len(steps)) < 1.0  # 0.15 of five decades
    assert {varied["optimizer"] for varied in found} == {"adamw", "sgd", "lion"}


def test_the_better_a_trial_the_likelier_it_is_varied():
    tried = [(value, {"share": value}, {"share": RANGES["share"]}) for value in (0.1, 0.9, 0.5)]
    near = Counter(
        min((0.1, 0.5, 0.9), key=lambda value: abs(value - vary(tried, seed, kept="family")["share"]))
        for seed in range(300)
    )
    assert near[0.9] > near[0.5] > near[0.1] > 0


def test_nothing_to_vary():
    assert vary([], 0, kept="family") is None
    assert vary([(1.0, {"family": "a"}, RANGES)], 0, kept="family") is None
