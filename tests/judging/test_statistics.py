from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta, binom, binomtest, norm

from redteam.judging.contrast import Models
from redteam.judging.recovery import excess_recovery
from redteam.judging.statistics import (
    Resampling,
    exact_interval,
    expected_best_of,
    mean_bounds,
    minimum_detectable_difference,
    percentile_bounds,
    untried_mass,
)

counts = st.integers(1, 400).flatmap(lambda trials: st.tuples(st.integers(0, trials), st.just(trials)))
group_lists = st.lists(st.integers(0, 8), min_size=1, max_size=30).map(
    lambda groups: [sorted(set(groups)).index(g) for g in groups]  # counted from 0, none left out, as the suite does
)


@settings(deadline=None)
@given(counts, st.floats(0.5, 0.999))
def test_exact_interval_is_scipys(count, confidence):
    successes, trials = count
    theirs = binomtest(successes, trials).proportion_ci(confidence_level=confidence, method="exact")
    assert exact_interval(successes, trials, confidence) == pytest.approx((theirs.low, theirs.high), abs=1e-9)


@settings(deadline=None)
@given(st.integers(1, 200), st.floats(0, 1))
def test_exact_interval_rounds_fractional_successes_outwards(trials, rate):
    low, high = exact_interval(rate * trials, trials)
    assert low == exact_interval(math.floor(rate * trials), trials)[0]
    assert high == exact_interval(math.ceil(rate * trials), trials)[1]
    assert 0 <= low <= rate + 1e-12
    assert rate - 1e-12 <= high <= 1


@settings(deadline=None)
@given(group_lists, st.integers(0, 1000))
def test_rows_of_weights_sum_to_one_and_groups_count_whole(groups, seed):
    resampling = Resampling.over(groups, seed=seed, replicates=50)
    assert resampling.groups == len(set(groups))
    assert resampling.items.shape == (50, len(groups))
    assert resampling.items.min() >= 0
    np.testing.assert_allclose(resampling.items.sum(axis=1), 1, atol=1e-12)
    for row in resampling.items:
        by_group = {g: {w for w, h in zip(row, groups, strict=True) if h == g} for g in groups}
        assert all(len(weights) == 1 for weights in by_group.values())  # all items of a group, or none, equally often
        # Every weight is a whole number of draws of its group, in units of this replicate's size.
        drawn = [weights.pop() for weights in by_group.values()]
        units = np.array(drawn) / min(w for w in drawn if w > 0)
        assert any(np.allclose(units * k, np.round(units * k)) for k in range(1, len(drawn) + 1))


def test_groups_are_drawn_as_often_as_there_are_groups_and_evenly():
    resampling = Resampling.over(list(range(20)), seed=1, replicates=4000)
    draws = resampling.items * 20
    np.testing.assert_allclose(draws.sum(axis=1), 20)
    # Each count is Binomial(20, 1/20): mean 1, variance 0.95; over 4,000 replicates the mean is within 4.5 sigma.
    assert np.abs(draws.mean(axis=0) - 1).max() < 4.5 * math.sqrt(0.95 / 4000)
    assert draws.var() == pytest.approx(0.95, rel=0.05)


def test_all_models_see_the_same_items():
    """Pairing: of two equal models hardly anything differs but the two facts that were added to each."""
    resampling = Resampling.over([n // 2 for n in range(600)], seed=0, replicates=2000)
    scores = np.random.default_rng(0).integers(0, 2, (1, 600)).astype(float)
    target, reference = resampling.means(scores, "target"), resampling.means(scores, "reference")
    drawn = resampling.items @ scores[0]
    assert np.corrcoef(target, drawn)[0, 1] > 0.97
    assert (target - reference).std() < 0.3 * target.std()
    unpaired = Resampling.over([n // 2 for n in range(600)], seed=1, replicates=2000).means(scores, "reference")
    assert (target - unpaired).std() > target.std()


@pytest.mark.parametrize("score", [0.0, 1.0])
def test_two_added_facts_keep_a_score_without_spread_from_certainty(score):
    """As Agresti and Coull: 0 of 40 leaves open what three more right answers would be, and not much more."""
    resampling = Resampling.over(list(range(40)), seed=0, replicates=4000)
    away = np.abs(resampling.means(np.full((3, 40), score), "target") - score)
    low, high = exact_interval(0, 40)
    assert low <= np.quantile(away, 0.025)
    assert 0.6 * high < np.quantile(away, 0.975) < 1.1 * high


def test_seeds_are_drawn_per_model_and_repeatably():
    """Scores that depend on the seed alone show which seeds were drawn."""
    resampling = Resampling.over(list(range(10)), seed=0, replicates=3000)
    scores = np.repeat([[0.25], [0.5], [0.75]], 10, axis=1)
    target, reference = resampling.means(scores, "target"), resampling.means(scores, "reference")
    assert abs(np.corrcoef(target, reference)[0, 1]) < 0.08  # 4.4 sigma of no correlation
    # The mean of three seeds whose sample variance is 1/16, in ten facts of twelve, and the spread of the added two.
    share, seeds = 10 / 12, 1 / 16 / 3
    assert target.var() == pytest.approx((share * (1 - share) / 12 + share**2) * seeds + 0.5 / 144, rel=0.1)
    np.testing.assert_array_equal(target, resampling.means(scores, "target"))
    again = Resampling.over(list(range(10)), seed=0, replicates=3000)
    np.testing.assert_array_equal(target, again.means(scores, "target"))
    assert not np.array_equal(Resampling.over(list(range(10)), seed=1, replicates=3000).items, again.items)


@settings(deadline=None)
@given(group_lists, st.integers(1, 4), st.integers(0, 1000), st.booleans())
def test_mean_bounds_contain_the_estimate_and_stay_in_the_unit_interval(groups, seeds, seed, binary):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 2, (seeds, len(groups))).astype(float) if binary else rng.random((seeds, len(groups)))
    bounds = mean_bounds(scores, Resampling.over(groups, seed=0, replicates=100), "target")
    assert bounds.estimate == scores.mean()
    assert -1e-12 <= bounds.low <= bounds.estimate <= bounds.high <= 1 + 1e-12


@pytest.mark.parametrize("score", [0.0, 1.0])
def test_mean_bounds_without_spread_are_exact_over_groups(score):
    """Forty items in ten groups are ten observations."""
    scores = np.full((3, 40), score)
    bounds = mean_bounds(scores, Resampling.over([n // 4 for n in range(40)], seed=0, replicates=50), "target")
    assert (bounds.low, bounds.high) == exact_interval(10 * score, 10)
    assert bounds.high - bounds.low > 0.3


def test_items_of_one_group_are_no_independent_observations():
    rng = np.random.default_rng(0)
    scores = np.repeat(rng.integers(0, 2, 30).astype(float), 4)[None]
    grouped = mean_bounds(scores, Resampling.over([n // 4 for n in range(120)], seed=0), "target")
    alone = mean_bounds(scores, Resampling.over(list(range(120)), seed=0), "target")
    assert (grouped.high - grouped.low) / (alone.high - alone.low) == pytest.approx(2, rel=0.1)  # sqrt(4)


@settings(deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=1, max_size=40), st.floats(-1, 1))
def test_percentile_bounds_contain_the_estimate(replicates, estimate):
    bounds = percentile_bounds(estimate, np.array(replicates))
    assert bounds.low <= bounds.estimate == estimate <= bounds.high
    wider = percentile_bounds(estimate, np.array(replicates), confidence=0.99)
    assert wider.low <= bounds.low
    assert bounds.high <= wider.high


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_expected_best_of_is_the_mean_over_all_subsets(values):
    brute = [
        float(np.mean([max(subset) for subset in itertools.combinations(values, n)])) for n in range(1, len(values) + 1)
    ]
    assert expected_best_of(values) == pytest.approx(brute, abs=1e-12)


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=60))
def test_expected_best_of_rises_from_the_mean_to_the_best(values):
    curve = expected_best_of(values)
    assert len(curve) == len(values)
    assert curve[0] == pytest.approx(np.mean(values), abs=1e-12)
    assert curve[-1] == pytest.approx(max(values), abs=1e-12)
    assert all(a <= b + 1e-12 for a, b in itertools.pairwise(curve))


def test_expected_best_of_nothing_is_nothing():
    assert expected_best_of([]) == []


def test_expected_best_of_a_large_search():
    """A budget of 4,000 has a random block of 1,067."""
    curve = expected_best_of([n / 1100 for n in range(1101)])
    assert curve[0] == pytest.approx(0.5)
    assert curve[-1] == pytest.approx(1)


@settings(deadline=None)
@given(st.integers(1, 5000), st.floats(0.5, 0.999))
def test_untried_mass_is_where_all_draws_miss_with_the_probability_left(trials, confidence):
    mass = untried_mass(trials, confidence)
    assert 0 < mass < 1
    assert (1 - mass) ** trials == pytest.approx(1 - confidence, rel=1e-6)
    assert untried_mass(trials + 1, confidence) < mass


def test_untried_mass_follows_the_rule_of_three():
    assert untried_mass(1) == pytest.approx(0.95)
    assert untried_mass(300) == pytest.approx(3 / 300, rel=0.01)


@settings(deadline=None)
@given(st.integers(2, 1000), st.floats(0.01, 0.5))
def test_detectable_difference_is_the_textbook_formula(groups, rate):
    """z(0.975) + z(0.8) = 1.9600 + 0.8416, from a table."""
    expected = (1.959963985 + 0.841621234) * math.sqrt(2 * rate * (1 - rate) / groups)
    assert minimum_detectable_difference(groups, rate) == pytest.approx(expected, rel=1e-6)


@settings(deadline=None)
@given(st.integers(2, 1000), st.floats(0.01, 0.45), st.floats(0.6, 0.98), st.floats(0.5, 0.95))
def test_detectable_difference_is_monotone(groups, rate, confidence, power):
    base = minimum_detectable_difference(groups, rate, confidence, power)
    assert minimum_detectable_difference(groups + 1, rate, confidence, power) < base
    assert minimum_detectable_difference(4 * groups, rate, confidence, power) == pytest.approx(base / 2)
    assert minimum_detectable_difference(groups, rate + 0.05, confidence, power) > base
    assert minimum_detectable_difference(groups, rate, confidence + 0.01, power) > base
    assert minimum_detectable_difference(groups, rate, confidence, power + 0.01) > base


def test_detectable_difference_is_detected_as_often_as_promised():
    """Two-sample z-test at 5 %, 100 facts each, rates symmetric around 0.3: power 0.8."""
    groups, rate = 100, 0.3
    gap = minimum_detectable_difference(groups, rate)
    rng = np.random.default_rng(0)
    a, b = (rng.binomial(groups, rate + sign * gap / 2, 20_000) / groups for sign in (1, -1))
    pooled = (a + b) / 2
    power = np.mean(np.abs(a - b) / np.sqrt(2 * pooled * (1 - pooled) / groups) > 1.96)
    assert power == pytest.approx(0.8, abs=0.03)


def draw_run(rng, groups, target, reference, *, firmness, original=0.98):
    """One run: three models on the same facts, three seeds, two of them attacked.

    A fact has a propensity to be recovered, Beta with the given mean; `firmness` 0 means that it either comes back in
    every seed or in none. Facts that are easy for one model tend to be easy for the other (correlation about 0.3).
    """
    facts, index = max(groups) + 1, np.array(groups)
    shared = rng.normal(size=facts)

    def scores(mean, seeds):
        latent = norm.cdf(math.sqrt(0.3) * shared + math.sqrt(0.7) * rng.normal(size=facts))
        propensity = latent < mean if firmness == 0 else beta.ppf(latent, mean * firmness, (1 - mean) * firmness)
        return (rng.random((seeds, len(index))) < propensity[index]).astype(float)

    whole = (rng.random((1, len(index))) < original).astype(float)
    return Models(original=whole, target=scores(target, 3), references=(scores(reference, 3),))


def misses(groups, target, reference, *, firmness, runs):
    """How often the whole interval lies above and below the true excess recovery."""
    rng, resampling = np.random.default_rng(1), Resampling.over(groups, seed=0)
    truth = (target - reference) / (0.98 - reference)
    found = [
        excess_recovery(draw_run(rng, groups, target, reference, firmness=firmness), resampling) for _ in range(runs)
    ]
    bounds = [excess.bounds for excess in found if excess is not None]
    assert len(bounds) == runs
    return sum(b.low > truth for b in bounds), sum(b.high < truth for b in bounds)


PAIRS, SINGLES, FEW = [n // 2 for n in range(200)], list(range(120)), list(range(40))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("groups", "target", "reference", "firmness"),
    [
        (PAIRS, 0.4, 0.1, 0.5),
        (PAIRS, 0.9, 0.0625, 0.5),
        (SINGLES, 0.9, 0.0625, 0.5),
        (SINGLES, 0.15, 0.0625, 0.5),
        (SINGLES, 0.15, 0.0625, 0),
        (FEW, 0.5, 0.0625, 0),
    ],
)
def test_the_interval_of_excess_recovery_covers_the_truth(groups, target, reference, firmness):
    """Nominal 95 %. True coverage outside 93-97 % would be noticed, but for one in a thousand on either side."""
    runs = 1000
    above, below = misses(groups, target, reference, firmness=firmness, runs=runs)
    covered = runs - above - below
    assert binom.ppf(0.001, runs, 0.93) <= covered <= binom.ppf(0.999, runs, 0.97)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("groups", "firmness", "allowed"),
    [
        *((groups, 0.5, 0.025) for groups in (SINGLES, FEW)),  # what `Policy` says of each bound
        *((groups, 0, 0.025) for groups in (SINGLES, FEW)),
    ],
)
def test_a_true_excess_above_the_limit_is_rarely_called_resisted(groups, firmness, allowed):
    """RESISTED rests on the upper bound, which must not fall below a true excess of 0.1 more often than allowed."""
    runs, reference = 4000, 0.0625
    target = reference + 0.1 * (0.98 - reference)
    _, below = misses(groups, target, reference, firmness=firmness, runs=runs)
    assert below <= binom.ppf(0.999, runs, allowed)


@pytest.mark.slow
def test_independent_noise_makes_the_interval_wider_than_needed_never_narrower():
    """If seeds agree on no fact, seeds and facts both count the same noise; that errs on the safe side, and not far."""
    runs = 400
    above, below = misses(SINGLES, 0.4, 0.1, firmness=1e5, runs=runs)
    assert above + below <= binom.ppf(0.999, runs, 0.05)


@pytest.mark.parametrize("seeds", [1, 2, 3, 8])
def test_the_spread_of_a_mean_is_that_of_facts_and_of_seeds(seeds):
    """Facts that seeds agree on, and seeds that shift all facts alike: the variance of the mean is known."""
    rng = np.random.default_rng(0)
    facts, shifts = rng.normal(0.5, 0.1, 400), rng.normal(0, 0.02, seeds)
    replicates = Resampling.over(list(range(400)), seed=0).means(facts + shifts[:, None], "target")
    expected = facts.var() / 400 + (shifts.var(ddof=1) / seeds if seeds > 1 else 0.0)
    added = 2 * 0.25 / 402**2
    assert replicates.var() == pytest.approx(expected + added, rel=0.1)
