"""Going on with a run: what was found stays, the trials beyond are new, and looking again costs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from recorded_runs import NEVER_TRAINED, PLAN, counted, judge_run, record
from run_redteam import redteam as command

import redteam
from redteam.errors import InputError
from redteam.evidence import keys
from redteam.evidence.directory import RunDirectory
from redteam.evidence.events import NoneNote
from redteam.evidence.evidence import read_evidence
from redteam.evidence.sealed import SealedRun, open_sealed
from redteam.judging.case import confidence_at
from redteam.registry import ATTACKS
from redteam.search.plan import plan_search
from redteam.suite.extend import take_over
from redteam.target import TargetInfo

QUICK = f"{Path(__file__).with_name('quick_attack.py')}:Quick"
HOW: dict[str, Any] = {"attacks": [QUICK], "probes": ["means"]}
NEWS = ("capability", "models", "finished")


def rows(run: Path) -> dict[str, dict[str, Any]]:
    lines = (run / "events.jsonl").read_text().splitlines()
    return {row["key"]: {k: v for k, v in row.items() if k != "time"} for row in map(json.loads, lines)}


def scores(run: Path) -> dict[tuple[str, str], list[float]]:
    lines = (run / "samples.jsonl").read_text().splitlines()
    return {(row["key"], row["name"]): row["scores"] for row in map(json.loads, lines)}


@pytest.fixture(scope="module")
def first(untrained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("extend") / "first"
    redteam.attack(untrained, budget=3, out=out, **HOW)
    return out


@pytest.fixture(scope="module")
def second(untrained: Path, first: Path) -> Path:
    out = first.with_name("second")
    redteam.attack(untrained, budget=2, extend=first, out=out, **HOW)
    return out


def test_what_was_found_stays_and_is_not_run_again(first: Path, second: Path) -> None:
    before, after = rows(first), rows(second)
    assert all(after[key] == row for key, row in before.items() if key not in NEWS)
    assert all(scores(second)[key] == values for key, values in scores(first).items())
    assert [key for key in after if key.startswith("target/search/")] == [f"target/search/{n:04d}" for n in range(5)]
    assert [key for key in after if key.startswith("reference/search/")] == [
        f"reference/search/{n:04d}" for n in range(5)
    ]


def test_why_nobody_was_given_examples_is_asked_anew(tmp_path: Path) -> None:
    """What surely came back at the first look need not at the second, which is less sure."""
    before = record(tmp_path / "before", counted(NEVER_TRAINED))
    evidence = read_evidence(before)
    evidence.by_key[keys.UNCOUNTED] = NoneNote(key=keys.UNCOUNTED, error="at least 50% came back")
    with RunDirectory(tmp_path / "run", PLAN) as run:
        take_over(run, SealedRun(path=before, plan=PLAN, environment={}, digests={}, evidence=evidence))
        assert keys.UNCOUNTED not in run.events
        assert [key for key in run.events.by_key if keys.with_examples(key)]


def test_each_configuration_is_confirmed_once_a_run(second: Path) -> None:
    confirmed = [row for key, row in rows(second).items() if key.startswith("target/confirm/")]
    by_number: dict[int, set[str]] = {}
    for row in confirmed:
        by_number.setdefault(row["configuration"], set()).add(json.dumps(row["params"], sort_keys=True))
    assert all(len(configurations) == 1 for configurations in by_number.values())
    assert len(set.union(*by_number.values())) == len(by_number)


def test_the_first_run_is_as_it_was_and_both_are_sealed(first: Path, second: Path) -> None:
    one, other = open_sealed(first), open_sealed(second)
    assert (one.plan.budget, one.plan.extends) == (3, ())
    assert (other.plan.budget, other.plan.extends) == (5, (3,))


def test_looking_again_costs(untrained: Path, first: Path, second: Path, tmp_path: Path) -> None:
    results = [judge_run(run) for run in (first, second)]
    assert [(found.looks, found.policy["confidence"]) for found in results] == [(1, 0.95), (2, 0.975)]
    assert results[1].budget.asked == 5
    third = redteam.attack(untrained, budget=1, extend=second, out=tmp_path / "third", **HOW).capabilities[0]
    assert (third.looks, third.policy["confidence"], third.budget.spent) == (3, 0.9875, 6)


def test_the_same_command_goes_on_where_it_stopped(untrained: Path, first: Path, second: Path, tmp_path: Path) -> None:
    """Cut off in the middle of what was copied, and in the middle of what is new."""
    whole = rows(second)
    for kept in (2, len(whole) - 4):
        out = tmp_path / str(kept)
        redteam.attack(untrained, budget=2, extend=first, out=out, **HOW)
        log = out / "events.jsonl"
        log.write_text("".join(log.read_text().splitlines(keepends=True)[:kept]))
        redteam.attack(untrained, budget=2, extend=first, out=out, **HOW)
        again = rows(out)
        assert again.keys() == whole.keys()
        timed = ("seal", "seconds")
        assert all(
            {k: v for k, v in again[key].items() if k not in timed} == {k: v for k, v in row.items() if k not in timed}
            for key, row in whole.items()
        )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"attacks": ["noop"]}, "differs in: attacks"),
        ({"seed": 1}, "differs in: seed"),
        ({"probes": ["linear"]}, "probes"),
    ],
)
def test_something_else_is_no_extension(
    untrained: Path, first: Path, changes: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=said):
        redteam.attack(untrained, budget=2, extend=first, out=tmp_path / "run", **{**HOW, **changes})
    assert not (tmp_path / "run").exists()


def test_a_run_that_is_not_over_cannot_be_extended(untrained: Path, tmp_path: Path) -> None:
    open_run = record(tmp_path / "run", NEVER_TRAINED)
    log = open_run / "events.jsonl"
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(InputError, match="is not finished"):
        redteam.attack(untrained, budget=2, extend=open_run, **HOW)
    for nothing in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(InputError, match="is no run of one capability"):
            redteam.attack(untrained, budget=2, extend=nothing, **HOW)


def test_the_command(untrained: Path, first: Path, second: Path, tmp_path: Path) -> None:
    given = ("-a", QUICK, "--extend", first, "--budget", "+2", "--out", tmp_path / "run", "--format", "json")
    done = command("attack", untrained, *given)
    assert done.returncode == 2  # the probes are others than those of that run
    assert "differs in: probes" in done.stderr


def test_a_plan_that_extends_nothing_is_called_what_it_was() -> None:
    before = PLAN.model_copy(update={"suite": "standard-1", "attacks": {"retrain": 1}})
    assert before.fingerprint == "eb53ec7c16b77290319ee5c4ab177dba805f1a6ff2e72fcf9ac2fc441cd8a114"
    assert PLAN.model_copy(update={"extends": (3,)}).fingerprint != PLAN.fingerprint


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
def test_all_looks_together_cost_at_most_twice_the_first(confidence: float) -> None:
    assert confidence_at(confidence, 1) == confidence
    spent = [1 - confidence_at(confidence, look) for look in range(1, 40)]
    assert spent == sorted(spent, reverse=True)
    assert sum(spent) <= 2 * (1 - confidence) + 1e-9


@pytest.mark.parametrize("earlier", [(), (12,), (12, 30), (1, 2, 3)])
def test_a_plan_that_goes_on_begins_as_the_one_before(earlier: tuple[int, ...]) -> None:
    """Whatever the phases: trial for trial, and no recipe is tried twice."""
    attacks = {name: ATTACKS.create(name) for name in ("retrain", "benign", "perturb")}
    info = TargetInfo(kind="language", architecture="llama", parameters=1000, layers=2, hidden_size=8)
    budget = 60
    plan = plan_search(attacks, info, 30, budget, earlier)
    assert plan.budget == budget
    phases = [plan.phase(index) for index in range(budget)]
    for place, before in enumerate(earlier):
        shorter = plan_search(attacks, info, 30, before, earlier[:place])
        assert [shorter.phase(index) for index in range(before)] == phases[:before]
        recipes = [index for index in range(before) if phases[index] == "recipe"]
        assert [shorter.recipe(index) for index in recipes] == [plan.recipe(index) for index in recipes]
    told = [plan.recipe(index) for index in range(budget) if phases[index] == "recipe"]
    assert told == list(plan.recipes_alone.recipes)
    assert len({json.dumps(recipe, sort_keys=True) for recipe in told}) == len(told)
    assert [plan.adaptive_before(index) for index in range(budget)] == [
        phases[:index].count("adaptive") for index in range(budget)
    ]
