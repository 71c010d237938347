"""All promises of an attack and of a scorer by name, and one call that checks them all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from redteam.attacks.contract import Attack, Params
from redteam.capabilities.scorers.contract import Scorer
from redteam.testing import scored
from redteam.testing.costs import charges_its_training, steps_rise
from redteam.testing.declared import says_what_it_is
from redteam.testing.exercise import Exercise
from redteam.testing.promise import BrokenPromise, BrokenPromises
from redteam.testing.repeats import is_the_same_for_a_seed
from redteam.testing.runs import acts, ends, keeps_to_its_access, runs, runs_what_it_proposes
from redteam.testing.space import proposes_parameters, recipes_differ, recipes_lie_within_the_space
from redteam.testing.traces import can_be_undone, leaves_nothing_behind, leaves_the_process_alone, writes_to_no_data
from redteam.testing.worlds import KINDS

Promise = Callable[[Attack, Exercise | None], None]

# Each takes an attack, and perhaps an `Exercise`, and raises `BrokenPromise`.
PROMISES: Mapping[str, Promise] = {
    "says-what-it-is": says_what_it_is,
    "proposes-parameters": proposes_parameters,
    "recipes-lie-within-the-space": recipes_lie_within_the_space,
    "recipes-differ": recipes_differ,
    "runs": runs,
    "runs-what-it-proposes": runs_what_it_proposes,
    "ends": ends,
    "steps-rise": steps_rise,
    "charges-its-training": charges_its_training,
    "acts": acts,
    "keeps-to-its-access": keeps_to_its_access,
    "is-the-same-for-a-seed": is_the_same_for_a_seed,
    "leaves-nothing-behind": leaves_nothing_behind,
    "can-be-undone": can_be_undone,
    "writes-to-no-data": writes_to_no_data,
    "leaves-the-process-alone": leaves_the_process_alone,
}
GROUND = ("says-what-it-is", "runs")  # an attack that breaks one of these breaks others for that reason alone

# Each takes a scorer, and raises `BrokenPromise`.
SCORER_PROMISES: Mapping[str, Callable[[Scorer], None]] = {
    "says-what-it-is": scored.says_what_it_is,
    "scores-every-item": scored.scores_every_item,
    "says-its-chance": scored.says_its_chance,
    "is-at-chance-where-nothing-is-known": scored.is_at_chance_where_nothing_is_known,
    "tells-who-knows": scored.tells_who_knows,
    "scores-each-item-by-itself": scored.scores_each_item_by_itself,
    "is-the-same-twice": scored.is_the_same_twice,
    "leaves-the-model-alone": scored.leaves_the_model_alone,
    "refuses-what-is-not-finite": scored.refuses_what_is_not_finite,
    "shows-all-that-is-read": scored.shows_all_that_is_read,
}
SCORER_GROUND = ("says-what-it-is", "scores-every-item")


def check_attack(
    attack: Attack,
    *,
    params: Params | None = None,
    kinds: Sequence[str] = KINDS,
    seed: int = 0,
    control: bool = False,
) -> None:
    """Checks every promise of an attack on a tiny language model and a tiny classifier; some seconds.

    Args:
        attack: an instance.
        params: that it is exercised with: a few steps that change a tiny model. By default the first of its recipes.
        kinds: of models, of which those are taken that the attack says it works on.
        seed: of the trials.
        control: whether it is to change nothing, as `noop`.

    Raises:
        BrokenPromises: some do not hold: one line for each, with what to do about it.
    """
    exercise = Exercise(params=params, kinds=kinds, seed=seed, control=control)
    checks = {name: partial(promise, attack, exercise) for name, promise in PROMISES.items()}
    _check(type(attack).__name__, "an attack", checks, GROUND)


def check_scorer(scorer: Scorer) -> None:
    """Checks every promise of a scorer on tiny models of the kinds that it says it works on; some seconds.

    Raises:
        BrokenPromises: some do not hold: one line for each, with what to do about it.
    """
    checks = {name: partial(promise, scorer) for name, promise in SCORER_PROMISES.items()}
    _check(type(scorer).__name__, "a scorer", checks, SCORER_GROUND)


def _check(name: str, kind: str, checks: Mapping[str, Callable[[], None]], ground: Sequence[str]) -> None:
    """Checks all; where one of the ground is broken the rest would be for that reason alone, and is left out."""
    broken: dict[str, BrokenPromise] = {}
    for promise, check in checks.items():
        try:
            check()
        except BrokenPromise as error:
            broken[promise] = error
            if promise in ground:
                break
    if broken:
        raise BrokenPromises(name, broken, kind) from next(iter(broken.values()))
