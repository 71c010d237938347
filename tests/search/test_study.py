from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from redteam.attacks.contract import Params, Suggest
from redteam.errors import InputError
from redteam.search import study
from redteam.search.plan import SearchPlan, plan_search
from redteam.search.study import Outcome, Search
from redteam.search.variation import vary
from redteam.target import TargetInfo

INFO = TargetInfo(kind="language", architecture="llama", parameters=1000, layers=2, hidden_size=8)
SAMPLES = 40
Proposal = tuple[str, Params]


class Tune:
    """A float, an integer, a choice, and a parameter that only one choice has."""

    def space(self, suggest: Suggest, target: TargetInfo, samples: int) -> Params:
        params = {
            "rate": suggest.suggest_float("rate", 1e-6, 1e-1, log=True),
            "samples": suggest.suggest_int("samples", 1, samples, log=True),
            "optimizer": suggest.suggest_categorical("optimizer", ["adamw", "sgd"]),
        }
        if params["optimizer"] == "sgd":
            params["momentum"] = suggest.suggest_float("momentum", 0.0, 0.99)
        return params

    def recipes(self, target: TargetInfo, samples: int) -> Sequence[Params]:
        return [
            {"rate": 3e-4, "samples": samples, "optimizer": "adamw"},
            {"rate": 0.1, "samples": 1, "optimizer": "sgd", "momentum": 0.9},
        ]


class Cut:
    """Shares a parameter's name with the other attack, with another range."""

    def space(self, suggest: Suggest, target: TargetInfo, samples: int) -> Params:
        return {"rate": suggest.suggest_float("rate", 0.0, 1.0), "layers": suggest.suggest_int("layers", 1, 2)}

    def recipes(self, target: TargetInfo, samples: int) -> Sequence[Params]:
        return [{"rate": 0.5, "layers": 1}]


ATTACKS = {"tune": Tune(), "cut": Cut()}
TRIALS = 12
PLAN = plan_search(ATTACKS, INFO, SAMPLES, TRIALS)


def achieved(index: int, proposal: Proposal) -> Outcome:
    """A made-up objective with failures and with trials that cost too much utility, some of each in every phase."""
    name, params = proposal
    if index % 4 == 1:
        return Outcome(value=None)
    if name == "cut":
        return Outcome(value=0.3 * params["rate"], shortfall=-0.1)
    value = math.exp(-((math.log10(params["rate"]) + 3) ** 2)) * (1 if params["optimizer"] == "adamw" else 0.7)
    return Outcome(value=value, shortfall=0.2 if params["samples"] > 30 else -0.2)


def begin(storage: Path, *, plan: SearchPlan = PLAN, seed: int = 0, arm: str = "target", attacks=ATTACKS) -> Search:
    return Search(plan, attacks, INFO, SAMPLES, seed=seed, arm=arm, storage=storage)


def go_on(
    search: Search, first: int, last: int, objective: Callable[[int, Proposal], Outcome] = achieved
) -> list[Proposal]:
    proposals = []
    for index in range(first, last):
        proposals.append(search.propose(index))
        search.record(objective(index, proposals[-1]))
    return proposals


def replayed(search: Search, history: Sequence[Proposal]) -> Search:
    """Tells a rebuilt search what an earlier process ran, as read back from the log."""
    for index, (name, params) in enumerate(json.loads(json.dumps(history))):
        search.replay(index, name, params)
        search.record(achieved(index, (name, params)))
    return search


def copy_of(storage: Path, arm: str = "target") -> optuna.Study:
    return optuna.load_study(study_name=arm, storage=f"sqlite:///{storage}")


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> list[Proposal]:
    return go_on(begin(tmp_path_factory.mktemp("straight") / "study.db"), 0, TRIALS)


def test_the_plan_of_these_tests_has_every_phase():
    assert [PLAN.phase(index) for index in range(TRIALS)] == [
        *["recipe"] * 2, "adaptive", "recipe", *["adaptive", "random"] * 4
    ]  # fmt: skip


@pytest.mark.parametrize("killed", range(TRIALS + 1))
def test_a_rebuilt_search_goes_on_as_if_it_had_never_stopped(killed, straight, tmp_path):
    storage = tmp_path / "study.db"
    assert go_on(begin(storage), 0, killed) == straight[:killed]
    again = replayed(begin(storage), straight[:killed])
    assert go_on(again, killed, TRIALS) == straight[killed:]
    trials = copy_of(storage).get_trials()
    assert [trial.number for trial in trials] == list(range(TRIALS))  # none twice, none left out
    assert [trial.params["attack"] for trial in trials] == [name for name, _ in straight]


def test_a_search_killed_again_and_again_goes_on_as_well(straight, tmp_path):
    found: list[Proposal] = []
    while len(found) < TRIALS:
        search = replayed(begin(tmp_path / "study.db"), found)
        found += go_on(search, len(found), min(TRIALS, len(found) + 5))
    assert found == straight
    assert len(copy_of(tmp_path / "study.db").get_trials()) == TRIALS


def test_a_trial_that_was_logged_but_not_copied_is_copied_on_resume(straight, tmp_path):
    """Killed between the two: the evidence has it, study.db has not."""
    storage = tmp_path / "study.db"
    go_on(begin(storage), 0, 4)
    go_on(replayed(begin(storage), straight[:6]), 6, TRIALS)
    assert [trial.number for trial in copy_of(storage).get_trials()] == list(range(TRIALS))


def test_a_lost_copy_is_written_anew(straight, tmp_path):
    go_on(begin(tmp_path / "one.db"), 0, 7)
    go_on(replayed(begin(tmp_path / "two.db"), straight[:7]), 7, TRIALS)
    values = [[t.value for t in copy_of(tmp_path / name).get_trials()[:7]] for name in ("one.db", "two.db")]
    assert values[0] == values[1]
    assert len(copy_of(tmp_path / "two.db").get_trials()) == TRIALS


def test_recipes_are_proposed_exactly_as_given(straight):
    """In order, to the last bit, also at the ends of their ranges."""
    assert of_phase("recipe", straight) == [(name, dict(params)) for name, params in PLAN.recipes]
    assert [name for name, _ in PLAN.recipes] == ["tune", "cut", "tune"]


def test_every_proposal_lies_within_its_space(straight):
    for name, params in straight:
        if name == "cut":
            assert set(params) == {"rate", "layers"}
            assert 0 <= params["rate"] <= 1
        else:
            assert set(params) == {"rate", "samples", "optimizer"} | ({"momentum"} & set(params))
            assert 1e-6 <= params["rate"] <= 0.1
            assert 1 <= params["samples"] <= SAMPLES
            assert ("momentum" in params) == (params["optimizer"] == "sgd")


def of_phase(phase: str, proposals: Sequence[Proposal]) -> list[Proposal]:
    return [proposal for index, proposal in enumerate(proposals) if PLAN.phase(index) == phase]


def test_random_trials_do_not_depend_on_outcomes_and_adaptive_ones_do(straight, tmp_path):
    other = go_on(begin(tmp_path / "study.db"), 0, TRIALS, lambda index, _: Outcome(value=(index * 7 % 5) / 5))
    assert of_phase("random", other) == of_phase("random", straight)
    assert of_phase("adaptive", other) != of_phase("adaptive", straight)


def test_random_trials_are_different_for_every_trial_and_seed(straight, tmp_path):
    other = go_on(begin(tmp_path / "study.db", seed=1), 0, TRIALS)
    assert of_phase("recipe", other) == of_phase("recipe", straight)
    drawn = [json.dumps(p) for p in (*of_phase("random", straight), *of_phase("random", other))]
    assert len(set(drawn)) == len(drawn)


def test_among_the_recipes_and_at_every_second_trial_after_them_one_of_the_best_is_varied(tmp_path, monkeypatch):
    """Of the same family, as `vary` makes it of what was recorded before."""
    made = []
    monkeypatch.setattr(study, "vary", lambda *given, **named: made.append(vary(*given, **named)) or dict(made[-1]))
    search = begin(tmp_path / "study.db")
    for index in range(TRIALS):
        before, (name, params) = len(made), search.propose(index)
        search.record(achieved(index, (name, params)))
        adaptive = PLAN.adaptive_before(index)
        varied = PLAN.phase(index) == "adaptive" and (adaptive < PLAN.between or (adaptive - PLAN.between) % 2 == 0)
        assert len(made) - before == varied, index
        if varied:
            own = {key.removeprefix(f"{name}."): value for key, value in made[-1].items() if key.startswith(f"{name}.")}
            assert made[-1]["attack"] == name
            assert all(params[key] == value for key, value in own.items() if key in params)
    assert len(made) == 3


def test_random_proposals_cover_the_space_evenly(tmp_path):
    """Log-uniform rates: a seed anew for every trial must not make the trials alike."""
    plan = SearchPlan(recipes=(), random=150, adaptive=0)
    found = go_on(begin(tmp_path / "study.db", plan=plan, attacks={"tune": Tune()}), 0, 150)
    logs = np.log10([params["rate"] for _, params in found])
    assert logs.mean() == pytest.approx(-3.5, abs=4 * (5 / math.sqrt(12)) / math.sqrt(150))
    quarters = np.histogram(logs, bins=4, range=(-6, -1))[0]
    assert quarters.min() > 37.5 - 4 * math.sqrt(150 * 0.25 * 0.75)
    first, second = logs[:-1], logs[1:]
    assert abs(np.corrcoef(first, second)[0, 1]) < 4 / math.sqrt(150)


def hill(_: int, proposal: Proposal) -> Outcome:
    """Smooth, with its top at a rate of 1e-2 and all samples."""
    params = proposal[1]
    far = (math.log10(params["rate"]) + 2) ** 2 / 4 + math.log(params["samples"] / SAMPLES) ** 2 / 4
    return Outcome(value=math.exp(-far), shortfall=-0.1)


def best_of(storage: Path, plan: SearchPlan, seed: int, objective=hill) -> float:
    found = go_on(begin(storage, plan=plan, seed=seed, attacks={"tune": Tune()}), 0, plan.budget, objective)
    outcomes = [objective(0, proposal) for proposal in found]
    return max(o.value for o in outcomes if o.value is not None and o.shortfall <= 0)


@pytest.mark.slow
def test_the_adaptive_phase_finds_better_values_than_chance(tmp_path):
    """The same first ten trials; then thirty more, adaptive or at random."""
    seeds = range(8)
    adaptive = [best_of(tmp_path / f"a{s}.db", SearchPlan(recipes=(), random=10, adaptive=30), s) for s in seeds]
    random = [best_of(tmp_path / f"r{s}.db", SearchPlan(recipes=(), random=40, adaptive=0), s) for s in seeds]
    assert np.mean(adaptive) > np.mean(random)
    assert sum(a > r for a, r in zip(adaptive, random, strict=True)) >= 6


@pytest.mark.slow
def test_the_adaptive_phase_heeds_the_utility_floor(tmp_path):
    """The top of the hill is infeasible: most adaptive proposals must stay off it."""

    def fenced(index: int, proposal: Proposal) -> Outcome:
        return Outcome(value=hill(index, proposal).value, shortfall=math.log10(proposal[1]["rate"]) + 3)

    shares = {}
    for name, objective in (("fenced", fenced), ("free", hill)):
        plan, infeasible = SearchPlan(recipes=(), random=10, adaptive=30), 0
        for seed in range(4):
            found = go_on(
                begin(tmp_path / f"{name}{seed}.db", plan=plan, seed=seed, attacks={"tune": Tune()}), 0, 40, objective
            )
            infeasible += sum(params["rate"] > 1e-3 for _, params in found[10:])
        shares[name] = infeasible / 120
    assert shares["fenced"] < 0.4 < shares["free"]


def test_failed_trials_are_kept_and_no_number_is_skipped(straight, tmp_path):
    go_on(begin(tmp_path / "study.db"), 0, TRIALS)
    trials = copy_of(tmp_path / "study.db").get_trials()
    assert [trial.number for trial in trials] == list(range(TRIALS))
    for trial, proposal in zip(trials, straight, strict=True):
        outcome = achieved(trial.number, proposal)
        if outcome.value is None:
            assert trial.state == TrialState.FAIL
            assert trial.values is None
        else:
            assert trial.state == TrialState.COMPLETE
            assert trial.value == outcome.value
        assert trial.params == {"attack": proposal[0], **{f"{proposal[0]}.{k}": v for k, v in proposal[1].items()}}
        assert trial.user_attrs["phase"] == PLAN.phase(trial.number)
    assert {trial.number for trial in trials if trial.state == TrialState.FAIL} == {1, 5, 9}


def test_a_search_in_which_everything_fails_goes_on(tmp_path):
    found = go_on(begin(tmp_path / "study.db"), 0, TRIALS, lambda *_: Outcome(value=None))
    assert len(found) == TRIALS
    assert {t.state for t in copy_of(tmp_path / "study.db").get_trials()} == {TrialState.FAIL}


def test_two_arms_share_one_file(straight, tmp_path):
    """In turns, as a run resumed in its second arm does; each is what it would be alone."""
    storage = tmp_path / "study.db"
    target = go_on(begin(storage, arm="target"), 0, TRIALS)
    reference = go_on(begin(storage, arm="reference"), 0, 5)
    replayed(begin(storage, arm="target"), target)
    reference += go_on(replayed(begin(storage, arm="reference"), reference), 5, TRIALS)
    assert target == reference == straight
    for arm in ("target", "reference"):
        assert [trial.number for trial in copy_of(storage, arm).get_trials()] == list(range(TRIALS))
    assert sorted(optuna.get_all_study_names(f"sqlite:///{storage}")) == ["reference", "target"]


class Misspelt(Cut):
    def recipes(self, target: TargetInfo, samples: int) -> Sequence[Params]:
        return [{"rate": 0.5, "layer": 1}]


class Outside(Cut):
    def recipes(self, target: TargetInfo, samples: int) -> Sequence[Params]:
        return [{"rate": 0.5, "layers": 3}]


class Raising(Cut):
    def space(self, suggest: Suggest, target: TargetInfo, samples: int) -> Params:
        raise ZeroDivisionError("no space")


@pytest.mark.parametrize(
    ("attack", "says"), [(Misspelt(), "layer"), (Outside(), "out of range"), (Raising(), "ZeroDivisionError: no space")]
)
def test_mistakes_of_an_attack_are_told_with_its_name(attack, says, tmp_path):
    """A recipe with a wrong key would be completed at random, and published as what it is not."""
    attacks = {"mine": attack}
    plan = plan_search(attacks, INFO, SAMPLES, 3)
    with pytest.raises(InputError, match="mine") as refusal:
        begin(tmp_path / "study.db", plan=plan, attacks=attacks).propose(0)
    assert says in str(refusal.value)
