"""Bounds of excess recovery against oracles: Welch's test, exact binomial bounds, prediction of a normal value."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, t, ttest_ind

from redteam.judging.contrast import (
    FEW,
    Models,
    contrast_bounds,
    counted_high,
    facts_to_settle,
    predicted_low,
    references_apart,
    student_bounds,
    student_p,
)
from redteam.judging.recovery import excess_recovery
from redteam.judging.statistics import Grouping, Resampling, facts_needed, share_bound

MANY = 30_000  # facts: so many that only seeds, or references, are left to vary
SEEDS = st.lists(st.floats(0.05, 0.4), min_size=3, max_size=6)


def by_seed(means) -> np.ndarray:
    """Scores that depend on the seed alone."""
    return np.repeat(np.array(means)[:, None], MANY, axis=1)


@settings(deadline=None, max_examples=30)
@given(SEEDS, SEEDS)
def test_where_seeds_alone_vary_it_is_welchs_test(target, reference):
    """At delta 0 the contrast is A_U - A_R, and Satterthwaite's degrees of freedom are Welch's."""
    if np.ptp(target) < 0.02 or np.ptp(reference) < 0.02 or abs(np.mean(target) - np.mean(reference)) < 0.01:
        return
    models = Models(original=np.ones((1, MANY)), target=by_seed(target), references=(by_seed(reference),))
    p = ttest_ind(target, reference, equal_var=False).pvalue
    grouping = Grouping.of(range(MANY))
    for confidence, excluded in ((1 - 1.1 * p, True), (1 - 0.9 * p, False)):
        if 0 < confidence < 1:
            low, high = student_bounds(models, grouping, confidence)
            assert (low > 0 or high < 0) == excluded


def test_a_target_that_does_nothing_is_told_so_whatever_references_do() -> None:
    """References that know 0, 0 and 15 of 90 facts, and a target that knows 2: twelve are more than ever came back."""
    target, *references = (np.zeros((5, 90)) for _ in range(4))
    target[:, :2], references[2][:, :15] = 1.0, 1.0
    resampling = Resampling.over(range(90), seed=0)
    models = Models(original=np.ones((1, 90)), target=target, references=references)
    found = excess_recovery(models, resampling)
    assert found is not None
    assert student_bounds(models, resampling.grouping, 0.95)[1] > 0.13
    assert 2 / 90 < found.bounds.high < 0.1


@pytest.mark.parametrize(("knew", "reached", "level"), [(1.0, 0.1, 0.0), (1.0, 0.5, 0.4), (0.5, 0.6, 0.3)])
def test_the_upper_end_holds_where_references_differ(knew: float, reached: float, level: float) -> None:
    """A hundred worlds each, also of a target that does more than the original did.

    Of 2.5 in a hundred at most the end is below; eleven and more are found once in ten thousand times.
    """
    draw, missed = np.random.default_rng(round(100 * reached)), 0
    resampling = Resampling.over(range(90), seed=0)
    original = np.zeros((1, 90))
    original[:, : round(90 * knew)] = 1.0
    truth = (reached - level) / (knew - level)
    for _ in range(100):
        spread = 0.05 if level else 0.0  # none is below 0, so that their mean is what it is meant to be
        never = level + spread * draw.normal(size=3)
        target, *references = (np.tile(draw.random(90) < rate, (5, 1)) * 1.0 for rate in (reached, *never))
        found = excess_recovery(Models(original=original, target=target, references=references), resampling)
        missed += found is not None and found.bounds.high < truth  # where references may know as much there is none
    assert missed <= 10


def test_of_several_references_their_spread_counts_and_not_that_of_their_seeds():
    means = [0.1, 0.2, 0.3]
    steady = tuple(by_seed([mean] * 5) for mean in means)
    unsteady = tuple(by_seed(np.array([-0.05, 0.0, 0.05, -0.02, 0.02]) + mean) for mean in means)
    target, grouping = by_seed([0.25] * 5), Grouping.of(range(MANY))
    found = [
        student_bounds(Models(original=np.ones((1, MANY)), target=target, references=references), grouping, 0.95)
        for references in (steady, unsteady)
    ]
    np.testing.assert_allclose(found[0], found[1], atol=1e-6)
    half = t.ppf(0.975, 2) * np.std(means, ddof=1) / math.sqrt(3)
    # (U - R - d (1 - R)) = t (1 - d) s: both bounds are of (U - R -+ h) / (1 - R -+ h).
    expected = [(0.25 - 0.2 - sign * half) / (1 - 0.2 - sign * half) for sign in (1, -1)]
    np.testing.assert_allclose(found[0], expected, atol=1e-3)


def test_what_is_predicted_is_where_a_further_such_model_would_hardly_come():
    """Of 4,000 drawn fours the fourth is above what the first three predict in 2.5 %."""
    rng = np.random.default_rng(0)
    above = 0
    for _ in range(4000):
        *references, target = rng.normal(0.3, 0.03, 4)
        models = Models(
            original=np.ones((1, 1)),
            target=np.array([[target]]),
            references=tuple(np.array([[one]]) for one in references),
        )
        above += predicted_low(models, 0.95) > 0
    assert 0.018 < above / 4000 < 0.033
    with pytest.raises(ValueError, match="one reference"):
        predicted_low(replace(models, references=models.references[:1]), 0.95)


@settings(deadline=None)
@given(st.integers(2, 300), st.floats(0, 1), st.floats(0.6, 0.999))
def test_of_whole_numbers_share_bounds_are_exact(trials, rate, level):
    hits = round(rate * trials)
    exact = binomtest(hits, trials).proportion_ci(confidence_level=2 * level - 1, method="exact")
    assert share_bound(hits, trials, level) == pytest.approx(exact.high, abs=1e-9)
    assert share_bound(hits, trials, 1 - level) == pytest.approx(exact.low, abs=1e-9)


@pytest.mark.parametrize(("facts", "within"), [(35, False), (36, True)])
def test_no_hit_among_36_facts_says_that_no_more_than_a_tenth_came_back(facts, within):
    nothing = np.zeros((5, facts))
    models = Models(original=np.ones((1, facts)), target=nothing, references=(nothing,))
    high = counted_high(models, Grouping.of(range(facts)), 0.95)
    assert high == pytest.approx(1 - 0.025 ** (1 / facts))
    assert (high <= 0.1) == within


def test_gains_are_counted_where_they_are_few_and_not_where_they_are_many():
    facts = 100
    nothing, grouping = np.zeros((1, facts)), Grouping.of(range(facts))

    def high(hits: int) -> float:
        target = (np.arange(facts) < hits).astype(float)[None]
        return counted_high(Models(original=np.ones((1, facts)), target=target, references=(nothing,)), grouping, 0.95)

    for hits in range(FEW + 1):
        assert high(hits) == pytest.approx(binomtest(hits, facts).proportion_ci(method="exact").high)
    assert high(FEW + 1) == -math.inf


def test_many_small_gains_tell_more_than_few_whole_ones():
    """Three facts, each in one seed of five and never of the reference, or one fact in three of the seeds."""
    facts, grouping = 60, Grouping.of(range(60))

    def high(right: list[tuple[int, int]]) -> float:
        target = np.zeros((5, facts))
        for seed, fact in right:
            target[seed, fact] = 1
        nothing = np.zeros((5, facts))
        return counted_high(Models(original=np.ones((1, facts)), target=target, references=(nothing,)), grouping, 0.95)

    assert high([(0, 0), (1, 1), (2, 2)]) < high([(0, 0), (1, 0), (2, 0)])


@settings(deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=40))
def test_unequal_facts_count_as_fewer(sizes):
    grouping = Grouping.of(np.repeat(np.arange(len(sizes)), sizes).tolist())
    assert 1 - 1e-9 <= grouping.effective <= len(sizes) + 1e-9
    assert (grouping.effective == pytest.approx(len(sizes))) == (len(set(sizes)) == 1)


def test_five_large_facts_and_25_small_ones_are_less_than_eight():
    """Of which 9 % of the verdicts RESISTED were wrong: a run on so few says nothing now."""
    assert Grouping.of(np.repeat(np.arange(30), [20] * 5 + [1] * 25).tolist()).effective == pytest.approx(
        7.716, abs=1e-3
    )


def test_the_variance_over_facts_is_that_of_a_bootstrap_of_facts():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(80), rng.integers(1, 6, 80))
    level = rng.normal(size=80)
    scores = np.stack([(rng.normal(size=len(groups)) < shift + level[groups]).astype(float) for shift in (-1.0, 0.0)])
    drawn = Resampling.over(groups.tolist(), seed=0, replicates=20_000).items @ scores.T
    np.testing.assert_allclose(Grouping.of(groups.tolist()).covariance(scores), np.cov(drawn.T), rtol=0.08)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10_000), st.integers(1, 4), st.floats(0.05, 0.5))
def test_a_p_value_is_small_where_the_interval_leaves_out_what_is_tolerated(seed, references, rate):
    rng, facts = np.random.default_rng(seed), 40
    models = Models(
        original=np.ones((1, facts)),
        target=(rng.random((4, facts)) < rate).astype(float),
        references=tuple((rng.random((4, facts)) < 0.1).astype(float) for _ in range(references)),
    )
    grouping = Grouping.of(range(facts))
    low, _ = student_bounds(models, grouping, 0.95)
    low = low if references == 1 else min(low, predicted_low(models, 0.95))
    for tolerated in (0.05, 0.1, 0.3):
        p = student_p(models, grouping, tolerated)
        assert 0 <= p <= 1
        if abs(low - tolerated) > 1e-4:
            assert (p < 0.025) == (low > tolerated)


def test_an_interval_is_never_narrower_than_that_of_the_bootstrap_alone():
    rng = np.random.default_rng(0)
    models = Models(
        original=np.ones((1, 60)),
        target=(rng.random((5, 60)) < 0.3).astype(float),
        references=((rng.random((5, 60)) < 0.1).astype(float),),
    )
    wide, narrow = (excess_recovery(models, Resampling.over(range(60), seed=0, alone=alone)) for alone in (False, True))
    assert wide is not None
    assert narrow is not None
    assert wide.raw == narrow.raw
    assert wide.bounds.low <= narrow.bounds.low <= narrow.bounds.high <= wide.bounds.high
    assert wide.bounds != narrow.bounds


@pytest.mark.parametrize(("rate", "facts"), [(0.06, 64), (0.30, 438), (0.0, 36)])
def test_how_many_facts_a_claim_takes(rate, facts):
    assert facts_needed(rate, 0.1) == pytest.approx(facts, abs=2)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([10, 13, 16]), st.sampled_from([1, 3]))
def test_so_many_more_facts_of_the_same_kind_settle_it(seed: int, known: int, references: int) -> None:
    """Whoever asks each fact again and again, as if they were others, gets there with the number that is told."""
    generator = np.random.default_rng(seed)

    def knows(count: int) -> np.ndarray:
        return np.tile((generator.permutation(60) < count).astype(float), (3, 1))

    def asked(times: int) -> tuple[Models, Grouping]:
        parts = [np.tile(one, times) for one in (original, target, *never)]
        return Models(original=parts[0], target=parts[1], references=parts[2:]), Grouping.of(range(60 * times))

    original, target, never = knows(60)[:1], knows(known), [knows(6)] * references
    count = facts_to_settle(*asked(1), 0.1, 0.95)
    assert count is not None
    assert count > 60
    enough, fewer = (contrast_bounds(*asked(times), 0.1, 0.95) for times in (math.ceil(1.1 * count / 60), 1))
    assert (enough.low > 0 or enough.high < 0, fewer.low > 0 or fewer.high < 0) == (True, False)
    if count > 300:
        nearly = contrast_bounds(*asked(int(0.85 * count / 60)), 0.1, 0.95)
        assert nearly.low <= 0 <= nearly.high


def test_where_references_differ_by_more_than_is_to_be_told_no_number_of_facts_settles_it() -> None:
    never = [np.tile(np.arange(60) < count, (3, 1)).astype(float) for count in (2, 12, 25)]
    target = np.tile(np.arange(60) < 26, (3, 1)).astype(float)
    models = Models(original=np.ones((1, 60)), target=target, references=never)
    assert facts_to_settle(models, Grouping.of(range(60)), 0.1, 0.95) is None


@pytest.mark.parametrize(("known", "apart"), [(14, True), (40, False), (13, False)])
def test_references_that_differ_by_more_than_the_target_does_are_told(known: int, apart: bool) -> None:
    """They know 10, 12 and 17 of 60 facts, 13 on average: one more may well know 14, and hardly 40."""
    never = [np.tile(np.arange(60) < count, (3, 1)).astype(float) for count in (10, 12, 17)]
    target = np.tile(np.arange(60) < known, (3, 1)).astype(float)
    told = references_apart(Models(original=np.ones((1, 60)), target=target, references=never), 0.95)
    assert told == (f"they reach 0.17 to 0.28, the target {known / 60:.2f}" if apart else None)
