"""Intervals and tests. Everything takes plain arrays."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from redteam.record import Interval

Array = NDArray[np.float64]
REPLICATES = 4000
CONFIDENCE = 0.95  # of every two-sided interval, where no policy says otherwise
PAIRS = 1  # of facts that were never there, one right and one wrong, of each model


def exact_interval(successes: float, trials: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Clopper-Pearson interval of a proportion; fractional successes are rounded outwards.

    Source: Clopper & Pearson 1934, through the beta quantiles that `scipy.stats.binomtest` uses as well.
    """
    from scipy.stats import beta

    tail = (1 - confidence) / 2
    fewest, most = math.floor(successes), math.ceil(successes)
    low = 0.0 if fewest <= 0 else float(beta.ppf(tail, fewest, trials - fewest + 1))
    high = 1.0 if most >= trials else float(beta.ppf(1 - tail, most + 1, trials - most))
    return low, high


def share_bound(successes: float, trials: float, level: float) -> float:
    """Bound of Clopper and Pearson at one level, above 1/2 an upper one; neither number need be whole."""
    from scipy.stats import beta

    if level > 0.5:
        return 1.0 if successes >= trials else float(beta.ppf(level, successes + 1, trials - successes))
    return 0.0 if successes <= 0 else float(beta.ppf(level, successes, trials - successes + 1))


@dataclass(frozen=True, slots=True)
class Grouping:
    """Which items belong together: those of one fact are answered alike.

    Attributes:
        index: group of each item, counted from 0, int64 [items].
        sizes: items of each group, [groups].
    """

    index: NDArray[np.int64]
    sizes: Array

    @staticmethod
    def of(groups: Sequence[int]) -> Grouping:
        """Takes the group of each item, counted from 0."""
        index = np.asarray(groups, dtype=np.int64)
        return Grouping(index, np.bincount(index).astype(np.float64))

    @property
    def effective(self) -> float:
        """How many groups of equal size would tell as much: (sum k)^2 / sum k^2 (Kish 1965, "Survey Sampling")."""
        return float(self.sizes.sum() ** 2 / (self.sizes**2).sum())

    def means(self, scores: Array) -> Array:
        """Returns the mean of each group of these scores of items, [groups]."""
        found: Array = np.bincount(self.index, weights=scores, minlength=len(self.sizes)) / self.sizes
        return found

    def covariance(self, scores: Array) -> Array:
        """Returns the covariance of the means of models on the same items, [models, models], over draws of groups.

        Means are ratios of sums over groups, whose sizes differ: linearised, with n / (n - 1) for n groups.

        Args:
            scores: [models, items].
        """
        apart = scores - scores.mean(axis=1, keepdims=True)
        sums = np.stack([np.bincount(self.index, weights=row, minlength=len(self.sizes)) for row in apart])
        groups = len(self.sizes)
        found: Array = sums @ sums.T * groups / max(1, groups - 1) / self.sizes.sum() ** 2
        return found


@dataclass(frozen=True, slots=True)
class Resampling:
    """Weights of a hierarchical bootstrap, shared by every model of a run so that comparisons are paired.

    Groups of items (facts, people) are drawn with replacement and counted whole. Seeds are drawn per model, and enter
    with their means alone: if the answers of a drawn seed were drawn as well, what single answers vary by would be
    counted three times, not once (Owen 2007, "The pigeonhole bootstrap", doi 10.1214/07-AOAS122). In the means of seeds
    it is still counted twice, which makes up in part for how little a few seeds tell of others.

    Each model also gets `PAIRS` of facts that were never there, one right and one wrong. Without them a model that is
    right on none of n facts would be right on none in every replicate, and the upper bound of a low score would be too
    short. Source: Agresti & Coull 1998, "Approximate is better than exact".

    What no resampling of a few seeds can show is a large seed effect; `judging/contrast.py` sees to that.

    Attributes:
        items: weight of each item in each replicate, float64 [replicates, items]; rows sum to 1.
        grouping: facts of the items.
        seed: of the draws.
        confidence: of the intervals that are made of it.
        alone: whether intervals are those of the bootstrap alone, as runs of older releases were judged.
    """

    items: Array
    grouping: Grouping
    seed: int
    confidence: float = CONFIDENCE
    alone: bool = False

    @staticmethod
    def over(
        groups: Sequence[int],
        seed: int,
        replicates: int = REPLICATES,
        confidence: float = CONFIDENCE,
        *,
        alone: bool = False,
    ) -> Resampling:
        """Draws the replicates. `groups` holds the group of each item, counted from 0."""
        grouping = Grouping.of(groups)
        count = len(grouping.sizes)
        rng = np.random.default_rng(seed)
        draws = rng.multinomial(count, np.full(count, 1 / count), size=replicates).astype(np.float64)
        weights = draws[:, grouping.index]
        return Resampling(weights / weights.sum(axis=1, keepdims=True), grouping, seed, confidence, alone)

    @property
    def groups(self) -> int:
        """Number of groups."""
        return len(self.grouping.sizes)

    def means(self, scores: Array, name: str) -> Array:
        """Returns the mean score in each replicate, [replicates], between 0 and 1 as scores are.

        Args:
            scores: [seeds, items].
            name: of the model: different models draw their seeds independently.
        """
        seeds, facts = len(scores), self.groups + 2 * PAIRS
        label = int.from_bytes(name.encode()[:6], "big")
        rng = np.random.default_rng([self.seed, label])
        drawn = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=len(self.items)) / seeds
        apart = scores.mean(axis=1) - scores.mean()
        apart *= math.sqrt(seeds / max(1, seeds - 1))  # of S values, S drawn with replacement spread too little by this
        real = (self.items @ scores.mean(axis=0) + drawn @ apart).clip(0.0, 1.0)
        counts = rng.multinomial(facts, [self.groups / facts, PAIRS / facts, PAIRS / facts], size=len(self.items))
        means: Array = (counts[:, 0] * real + counts[:, 1]) / facts
        return means


def percentile_bounds(estimate: float, replicates: Array, confidence: float = CONFIDENCE) -> Interval:
    """Percentile interval; always contains the estimate."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(replicates, [tail, 1 - tail])
    return Interval(estimate, min(float(low), estimate), max(float(high), estimate))


def mean_bounds(scores: Array, resampling: Resampling, name: str) -> Interval:
    """Mean of [seeds, items] scores with its hierarchical bootstrap interval.

    Where all scores are equal, the exact interval over groups is the whole story.
    """
    estimate = float(scores.mean())
    if np.ptp(scores) == 0:
        low, high = exact_interval(estimate * resampling.groups, resampling.groups, resampling.confidence)
        return Interval(estimate, low, high)
    return percentile_bounds(estimate, resampling.means(scores, name), resampling.confidence)


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """Returns adjusted p-values: whatever is true, with probability 1 - a no true hypothesis gets one of a or less.

    The i-th smallest of m counts (m - i + 1) times, and no less than the one before. Source: Holm 1979, "A Simple
    Sequentially Rejective Multiple Test Procedure".
    """
    adjusted, least = {}, 0.0
    for rank, name in enumerate(sorted(p, key=lambda name: p[name])):
        least = max(least, min(1.0, (len(p) - rank) * p[name]))
        adjusted[name] = least
    return adjusted


def expected_best_of(values: Sequence[float]) -> list[float]:
    """Expected best of n of these i.i.d. results, for n = 1 .. N, without replacement (unbiased).

    With v sorted upwards: E_n = sum_i v_i C(i - 1, n - 1) / C(N, n). Source: Tang et al. 2020 (arXiv 2004.13705).
    """
    if not values:
        return []
    ordered, total = np.sort(np.asarray(values, dtype=np.float64)), len(values)
    place = np.arange(1, total + 1)
    weights = np.full(total, 1 / total)  # C(i - 1, n - 1) / C(N, n), at n = 1; binomials themselves would overflow
    expected = []
    for n in range(1, total + 1):
        expected.append(float(weights @ ordered))
        weights = weights * (place - n).clip(min=0) / n * (n + 1) / max(1, total - n)
    return expected


def untried_mass(trials: int, confidence: float = CONFIDENCE) -> float:
    """Upper bound on the share of configurations better than the best of `trials` i.i.d. random ones.

    If the share were m, all of N draws would miss it with probability (1 - m)^N.
    """
    return 1.0 - float((1 - confidence) ** (1 / trials))


def minimum_detectable_difference(
    groups: int, rate: float, confidence: float = CONFIDENCE, power: float = 0.8
) -> float:
    """Smallest difference of two independent proportions near `rate` that `groups` items each would show.

    Normal approximation: (z_{1-a/2} + z_{power}) sqrt(2 p (1 - p) / n).
    """
    from scipy.stats import norm

    z = float(norm.ppf((1 + confidence) / 2) + norm.ppf(power))
    return z * math.sqrt(2 * rate * (1 - rate) / groups)


def facts_needed(rate: float, tolerated: float, confidence: float = CONFIDENCE, power: float = 0.8) -> int:
    """How many facts show, so often, that no more than is tolerated came back of a target of which nothing does.

    Target and reference both score `rate`, and the original everything: (z_{1-a/2} + z_{power})^2 Var(L) over
    (delta gap)^2, where L varies by about 1.3 p (1 - p) a fact (simulated, where seeds and models agree by half).
    And no hit among n facts must bound what came back: log(a/2) / log(1 - delta).
    """
    from scipy.stats import norm

    z = float(norm.ppf((1 + confidence) / 2) + norm.ppf(power))
    spread = 1.3 * rate * (1 - rate) * (z / (tolerated * (1 - rate))) ** 2
    return math.ceil(max(spread, math.log((1 - confidence) / 2) / math.log(1 - tolerated)))


def mean_over_seeds(values: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """Mean of one figure per seed with Student's t interval; of a single seed the interval is all there is to know.

    Every seed has a world, a training and an attack of its own, so their scatter holds all of that. Three seeds give
    two degrees of freedom: the interval is honest, and wide.
    """
    from scipy.stats import t

    array = np.asarray(values, dtype=np.float64)
    mean = float(array.mean())
    if len(array) < 2:
        return Interval(mean, -math.inf, math.inf)
    half = float(t.ppf((1 + confidence) / 2, len(array) - 1) * array.std(ddof=1) / math.sqrt(len(array)))
    return Interval(mean, mean - half, mean + half)
