"""Optuna proposes, the evidence decides: a study that is rebuilt from what was run."""

from __future__ import annotations

import random
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, RandomSampler, TPESampler

from redteam.attacks.contract import Attack, Params, Suggest
from redteam.engine.seeding import derive_seed
from redteam.errors import InputError
from redteam.search.plan import SearchPlan
from redteam.search.race import Standing, next_families
from redteam.search.variation import Rated, vary
from redteam.target import TargetInfo

FAMILY = "attack"


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What a trial achieved, as the search sees it.

    Attributes:
        value: best select score after at least one step, in [0, 1]; None when the trial failed.
        shortfall: how far utility at that point is below its floor; at most 0 when it holds.
    """

    value: float | None
    shortfall: float = 0.0


class Search:
    """One arm's search over attacks and their parameters.

    The study lives in memory and is rebuilt from the evidence on resume, trial by trial, so a run killed anywhere
    has no half-done trial to repair. Samplers are seeded anew for every trial from (seed, index): a seeded sampler
    that is rebuilt on resume would otherwise replay the numbers it drew before. Finished trials are copied to an
    SQLite storage, one transaction each, for Optuna's own tools.

    The family of an adaptive trial is drawn from those that may have it (`race`), and TPE proposes its parameters.
    """

    def __init__(
        self,
        plan: SearchPlan,
        attacks: Mapping[str, Attack],
        target: TargetInfo,
        samples: int,
        *,
        seed: int,
        arm: str,
        storage: Path,
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.plan, self.attacks, self.target, self.samples, self.seed = plan, attacks, target, samples, seed
        self._study = optuna.create_study(direction="maximize")
        self._copy = optuna.create_study(
            storage=f"sqlite:///{storage}", study_name=arm, direction="maximize", load_if_exists=True
        )
        self._copied = len(self._copy.get_trials(deepcopy=False))
        self._open: tuple[optuna.Trial, str] | None = None
        self._standings = dict.fromkeys(attacks, Standing())
        self._rated: list[Rated] = []

    def propose(self, index: int) -> tuple[str, Params]:
        """Returns the attack and parameters of trial `index`: a function of the seed and of what was recorded."""
        phase = self.plan.phase(index)
        if phase == "recipe":
            return self._recipe(index, *self.plan.recipe(index))
        if phase == "random":
            return self._ask(index, None)
        return self._vary(index) or self._ask(index, self._family(index))

    def replay(self, index: int, attack: str, params: Params) -> None:
        """Tells the study of a trial that an earlier process ran."""
        self._recipe(index, attack, params)

    def record(self, outcome: Outcome) -> None:
        """Tells the study how the trial last proposed or replayed went."""
        assert self._open is not None
        (trial, family), self._open = self._open, None
        standing = _standing(outcome)
        self._standings[family] = self._standings[family].after(standing)
        if standing is not None:
            self._rated.append((standing, trial.params, trial.distributions))
        if outcome.value is None:
            self._study.tell(trial, state=optuna.trial.TrialState.FAIL)
        else:
            trial.set_constraint("utility", outcome.shortfall)
            self._study.tell(trial, outcome.value)
        if trial.number >= self._copied:
            self._copy.add_trial(self._study.get_trials(deepcopy=False)[trial.number])
            self._copied += 1

    def _vary(self, index: int) -> tuple[str, Params] | None:
        """Asks for a variation of one of the best trials, among the recipes and at every second trial after them."""
        after = self.plan.adaptive_before(index) - self.plan.between
        if after >= 0 and after % 2:
            return None
        varied = vary(self._rated, derive_seed(self.seed, "variation", index), kept=FAMILY)
        return None if varied is None else self._ask(index, varied.pop(FAMILY), varied)

    def _family(self, index: int) -> str:
        """Returns the family of an adaptive trial: drawn from those that may have it."""
        names = next_families(self._standings, self.plan.share, self.plan.adaptive_before(index))
        return random.Random(derive_seed(self.seed, "family", index)).choice(names)

    def _recipe(self, index: int, family: str, fixed: Params) -> tuple[str, Params]:
        """Tells Optuna of a trial of which everything is fixed."""
        name, params = self._ask(index, family, {f"{family}.{name}": value for name, value in fixed.items()})
        if params != dict(fixed):
            differing = sorted(k for k in {*params, *fixed} if params.get(k) != fixed.get(k))
            raise InputError(f"a recipe of {family} lies outside its space (in {', '.join(differing)})", "Correct it")
        return name, params

    def _ask(self, index: int, family: str | None, given: Mapping[str, Any] | None = None) -> tuple[str, Params]:
        """Asks Optuna for what is not given: everything, the parameters of a family, some of them, or nothing."""
        if family is not None:
            self._study.enqueue_trial({FAMILY: family, **(given or {})})
        self._study.sampler = self._sampler(index)
        trial = self._study.ask()
        trial.set_user_attr("phase", self.plan.phase(index))
        name = trial.suggest_categorical(FAMILY, list(self.attacks))
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("error", message="Fixed parameter")  # a recipe outside its own space
                params = dict(self.attacks[name].space(_Scoped(trial, name), self.target, self.samples))
        except Exception as error:
            raise InputError(f"the space of {name} fails ({type(error).__name__}: {error})", "Correct it") from error
        self._open = trial, name
        return name, params

    def _sampler(self, index: int) -> BaseSampler:
        seed = derive_seed(self.seed, "sampler", index)
        if self.plan.phase(index) == "adaptive":
            with warnings.catch_warnings():
                # Parameters that occur together are modelled together, those of other families apart: what `group` is
                # for. Its interface may change, and the lock pins the release.
                warnings.simplefilter("ignore", ExperimentalWarning)
                return TPESampler(seed=seed, n_startup_trials=1, multivariate=True, group=True)
        return RandomSampler(seed=seed)


def _standing(outcome: Outcome) -> float | None:
    """Returns what an outcome counts for between families: its value, less what utility lacks at the floor."""
    return None if outcome.value is None else outcome.value - max(0.0, outcome.shortfall)


class _Scoped:
    """A trial whose parameter names carry the attack's name, so that two attacks never share a parameter."""

    def __init__(self, trial: Suggest, prefix: str) -> None:
        self.trial, self.prefix = trial, prefix

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """As `Suggest`."""
        return self.trial.suggest_float(f"{self.prefix}.{name}", low, high, log=log)

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        """As `Suggest`."""
        return self.trial.suggest_int(f"{self.prefix}.{name}", low, high, log=log)

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """As `Suggest`."""
        return self.trial.suggest_categorical(f"{self.prefix}.{name}", choices)
