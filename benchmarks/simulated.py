"""One simulated comparison: attacked models whose true scores are known, judged by the project's own functions.

Answers of facts come from a Gaussian copula: what is easy for one model tends to be easy for another, what a seed
brings back another tends to, and items of one fact stand and fall together. How much a seed, or a training, brings back
is beta distributed. The null of RESISTED is a target above the mean of such models; that of RECOVERED one that is
itself such a model, and above that.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.stats import norm

from redteam.judging.checks.table import CHECKS
from redteam.judging.contrast import Models
from redteam.judging.recovery import Excess, excess_recovery
from redteam.judging.statistics import Array, Grouping, Resampling
from redteam.judging.verdict import STANDARD_POLICY, decide
from redteam.search.selection import SEEDS

REPLICATES, DRAWS = 1000, 16  # of a bootstrap, and different ones: to draw anew for each run takes most of the time
SELECT, CHOSEN_BY, STOPS = 60, 3, 4  # facts that choose, seeds they are answered on, and places to stop


@dataclass(frozen=True, kw_only=True, slots=True)
class Regime:
    """A world that a run may be about.

    Attributes:
        name: as the table tells it.
        sizes: items of each fact.
        never: score of an attacked model that never knew, A_R.
        whole: of the original, s_O.
        seed_sd: by how much the scores of seeds differ.
        training_sd: by how much models differ that were trained alike and never knew.
        references: that are given.
        candidates: configurations that are as good, of the target and of the reference; the best is chosen among them.
        firm: how much of what a seed brings back another brings back too, from 0 to 1.
        shared: how much of what is easy for one model is easy for another.
        within: how much items of one fact are alike.
    """

    name: str
    sizes: tuple[int, ...] = (1,) * 150
    never: float = 0.0625
    whole: float = 0.95
    seed_sd: float = 0.0
    training_sd: float = 0.0
    references: int = 1
    candidates: tuple[int, int] = (1, 1)
    firm: float = 0.5
    shared: float = 0.5
    within: float = 0.8

    @property
    def judged(self) -> bool:
        """Whether there are facts enough for any verdict."""
        return Grouping.of(_index(self.sizes).tolist()).effective >= STANDARD_POLICY.min_groups


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was said of a target: one that is so much above the mean, and one above a model that never knew itself."""

    above_mean: str
    above_twin: str
    covered: bool


def outcome(regime: Regime, excess: float, number: int) -> Outcome:
    """Runs one comparison.

    Args:
        regime: the world.
        excess: true excess recovery of the target.
        number: of the run; the same numbers give the same answers.
    """
    seed = [number, round(excess * 1000), len(regime.sizes), round(regime.never * 10000)]
    world = World(regime, np.random.default_rng(seed))
    means = world.drawn(regime.never, regime.training_sd, regime.references)
    original = world.answers(np.array([regime.whole]), firm=1.0)
    attacked = tuple(world.attacked(float(mean), regime.candidates[1]) for mean in means)
    one = regime.references == 1  # then the claim is about this reference
    mean = float(means[0]) if one else regime.never
    twin = mean if one else float(world.drawn(regime.never, regime.training_sd, 1)[0])
    found = [_judged(world, original, base, excess, attacked, number) for base in dict.fromkeys((mean, twin))]
    first = found[0]
    covered = first is None or first.bounds.low <= excess <= first.bounds.high
    return Outcome(_verdict(regime, first), _verdict(regime, found[-1]), covered)


class World:
    """Facts of one run, and how easy each is."""

    def __init__(self, regime: Regime, rng: np.random.Generator) -> None:
        self.regime, self.rng = regime, rng
        self.index = _index(regime.sizes)
        self.easy = rng.normal(size=len(regime.sizes))

    def drawn(self, mean: float, deviation: float, count: int) -> Array:
        """Returns so many scores of this mean and standard deviation."""
        if deviation == 0 or not 0 < mean < 1:
            return np.full(count, mean)
        spread = min(deviation, 0.9 * np.sqrt(mean * (1 - mean)))
        both = mean * (1 - mean) / spread**2 - 1
        return self.rng.beta(mean * both, (1 - mean) * both, count)

    def answers(self, means: Array, firm: float) -> Array:
        """Returns which items are right in each seed of one model, [seeds, items]."""
        regime, items = self.regime, len(self.index)
        own = np.sqrt(regime.shared) * self.easy + np.sqrt(1 - regime.shared) * self.rng.normal(size=len(self.easy))
        of_item = np.sqrt(regime.within) * own[self.index] + np.sqrt(1 - regime.within) * self.rng.normal(size=items)
        latent = of_item if items > len(own) else own[self.index]
        seen = np.sqrt(firm) * latent + np.sqrt(1 - firm) * self.rng.normal(size=(len(means), items))
        found: Array = (seen < norm.ppf(means)[:, None]).astype(np.float64)
        return found

    def attacked(self, mean: float, candidates: int) -> Array:
        """Returns the confirmed answers of an attacked model: chosen on other facts and seeds, then run on five."""
        regime = self.regime
        shape = (candidates, STOPS, CHOSEN_BY)
        rates = self.drawn(mean, regime.seed_sd, int(np.prod(shape))).reshape(shape)
        select = self.rng.binomial(SELECT, rates).mean(axis=2)
        best = np.unravel_index(select.argmax(), select.shape)
        levels = np.full((candidates, STOPS), mean)  # all are as good, and which one it is makes no difference
        return self.answers(self.drawn(float(levels[best]), regime.seed_sd, SEEDS), regime.firm)


def _judged(
    world: World, original: Array, base: float, excess: float, references: tuple[Array, ...], number: int
) -> Excess | None:
    regime = world.regime
    target = world.attacked(base + excess * (regime.whole - base), regime.candidates[0])
    models = Models(original=original, target=target, references=references)
    return excess_recovery(models, _resampling(regime.sizes, number % DRAWS))


def _verdict(regime: Regime, found: Excess | None) -> str:
    return decide(found, found, [], CHECKS, STANDARD_POLICY)[0] if regime.judged else "INCONCLUSIVE"


@lru_cache(maxsize=2 * DRAWS)
def _resampling(sizes: tuple[int, ...], seed: int) -> Resampling:
    return Resampling.over(_index(sizes).tolist(), seed=seed, replicates=REPLICATES)


def _index(sizes: tuple[int, ...]) -> np.ndarray:
    return np.repeat(np.arange(len(sizes)), sizes)
