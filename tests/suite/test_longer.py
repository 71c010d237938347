"""The best configurations go on for longer while their curves rise, and no others."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from made_events import point, trial
from tiny_classifiers import tiny_points, trained_mlp

import redteam
from redteam.capabilities.items import Capability
from redteam.evidence.events import TrialEvent
from redteam.evidence.log import read_events
from redteam.evidence.results import CapabilityResult
from redteam.judging.rising import still_rises
from redteam.search.selection import LONGEST, RISING, Candidate, goes_on, rising
from redteam.suite import arm
from redteam.suite.progress import Silent
from redteam.trial import TrialSpec, run_trial

CLIMBING = Path(__file__).parents[1] / "climbing_attack.py"
BUDGET = 16


@pytest.mark.parametrize(
    ("scores", "facts", "rises"),
    [
        ([0.0, 0.1, 0.1, 0.3], 100, True),
        ([0.0, 0.1, 0.1, 0.1], 100, False),  # flat
        ([0.0, 0.1, 0.25, 0.3], 100, False),  # by less than one standard error
        ([0.0, 0.1, 0.25, 0.3], 1000, True),
        ([0.0, 0.1, 0.4, 0.3], 100, False),  # it falls
        ([0.0, 0.1, 0.5, 1.0], 100, False),  # nothing is left to be gained
        ([0.3, 0.1, 0.1, 0.3], 100, False),  # the released weights were there already
        ([0.0], 100, False),
    ],
)
def test_what_rises(scores: list[float], facts: int, rises: bool) -> None:
    curve = [(2**n if n else 0, score) for n, score in enumerate(scores)]
    last = curve[-1][0]
    assert still_rises(curve, last, facts) == rises
    assert not still_rises(curve[:-1] or curve, last, facts)  # the best stop is none where utility is lost by then


def climbed(number: int, best: float, steps: Any = 4, **changes: Any) -> TrialEvent:
    points = [point(0), point(1), point(2), point(4, best)]
    given = {"params": {"steps": steps, "rate": number}, **changes}
    return trial(f"target/search/{number:04d}", *points, **given)


@pytest.mark.parametrize(
    ("changes", "goes"),
    [
        ({}, True),
        ({"steps": 2}, True),
        ({"steps": LONGEST}, False),
        ({"steps": 8}, False),  # it did not take all of them
        ({"steps": "4"}, False),
        ({"params": {}}, False),
        ({"state": "failed", "error": "no"}, False),
        ({"diverged": True}, False),
    ],
)
def test_what_goes_on(changes: dict[str, Any], goes: bool) -> None:
    assert goes_on(climbed(0, 0.5, **changes), 0.8, 100) == goes


def test_an_attack_of_a_single_step_does_not_rise() -> None:
    """Means over several seeds have no released weights, so that nothing comes before that step."""
    assert not still_rises([(1, 0.4)], 1, 60)


def test_the_two_best_of_those_that_rise() -> None:
    trials = [climbed(n, 0.2 + n / 10) for n in range(4)]
    flat = trial("target/search/0009", point(0), point(1, 0.9), point(2, 0.9), params={"steps": 2})
    best = rising([*trials, flat], 0.8, 100)
    assert [one.params["rate"] for one in best] == [3, 2]
    assert len(best) == RISING


@pytest.mark.parametrize("steps", [1, 3, 512, LONGEST - 1])
def test_twice_the_steps_and_no_more_than_the_longest(steps: int) -> None:
    longer = Candidate(attack="retrain", params={"steps": steps, "rate": 1}).twice()
    assert longer == Candidate(attack="retrain", params={"steps": min(2 * steps, LONGEST), "rate": 1})


def points() -> Capability:
    """Half of the held-out points for each split: with twelve, luck is a fifth of the scale."""
    whole = tiny_points()
    held_out = whole.select + whole.certify
    return replace(whole, select=held_out[::2], certify=held_out[1::2])


def attacked(out: Path, attack: str = "Climb", **changes: Any) -> CapabilityResult:
    """A model that knows, of which outputs were lowered by as much as 48 steps of `Climb` lift them."""
    capability = points()
    target = trained_mlp(capability, forget=True)
    with torch.no_grad():
        list(target.parameters())[-1][:2] -= 12
    how = {"attacks": [f"{CLIMBING}:{attack}"], "probes": ["means"], "budget": BUDGET, "out": out, **changes}
    return redteam.attack(target, capability=capability, **how).capabilities[0]


def events(run: Path) -> dict[str, Any]:
    log = run / "events.jsonl"
    found = list(read_events(log.read_bytes(), log))
    assert len({event.key for event in found}) == len(found), "something was run twice"
    return {event.key: event for event in found}


def longer(run: Path, role: str = "target") -> list[TrialEvent]:
    return [event for key, event in events(run).items() if key.startswith(f"{role}/longer/")]


class Counted(Silent):
    planned = made = 0

    def plan(self, trials: int) -> None:
        self.planned = trials

    def trial(self, score: float | None) -> None:
        self.made += 1
        assert self.made <= self.planned


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out, counted = tmp_path_factory.mktemp("longer") / "run", Counted()
    found = attacked(out, progress=counted)
    assert counted.made == counted.planned
    assert found.scores["target"].attack["steps"] == 32  # type: ignore[index]
    assert "search-unconverged" not in {flag.name for flag in found.flags}
    return out


def test_a_rising_curve_is_gone_on_with_until_it_is_flat(run: Path) -> None:
    steps = [one.params["steps"] for one in longer(run)]
    assert steps == [16, 32, 16, 32]
    assert [one.key for one in longer(run)] == [f"target/longer/{n:02d}-0" for n in range(4)]
    assert len({one.seed for one in longer(run)}) == 4
    scored = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
    assert {row["name"].split("@")[0] for row in scored if "/longer/" in row["key"]} == {"select"}
    confirmed = [event.params["steps"] for key, event in events(run).items() if key.startswith("target/confirm/")]
    assert 32 in confirmed


def test_a_flat_curve_costs_nothing_more(tmp_path: Path) -> None:
    found = attacked(tmp_path / "run", "Leap")
    assert not longer(tmp_path / "run")
    assert "search-unconverged" not in {flag.name for flag in found.flags}


def test_a_small_search_goes_on_with_nothing(tmp_path: Path) -> None:
    found = attacked(tmp_path / "run", budget=BUDGET - 1)
    assert not longer(tmp_path / "run")
    assert events(tmp_path / "run")["capability"].longest == 0
    assert "search-unconverged" not in {flag.name for flag in found.flags}


@pytest.mark.parametrize("stop", ["target/longer/01-0", "target/longer/02-0"])
def test_stopped_there_and_repeated(run: Path, stop: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(setting: Any, adversary: Any, spec: TrialSpec) -> Any:
        if spec.key == stop:
            raise KeyboardInterrupt
        return run_trial(setting, adversary, spec)

    with monkeypatch.context() as patch:
        patch.setattr(arm, "run_trial", interrupted)
        with pytest.raises(KeyboardInterrupt):
            attacked(tmp_path / "run")
    assert stop not in events(tmp_path / "run")
    attacked(tmp_path / "run", progress=Counted())
    assert (tmp_path / "run" / "results.json").read_bytes() == (run / "results.json").read_bytes()


def test_a_run_that_goes_on_keeps_what_went_on_for_longer(run: Path, tmp_path: Path) -> None:
    attacked(tmp_path / "run", budget=4, extend=run)
    kept: Sequence[TrialEvent] = longer(tmp_path / "run")
    assert [one.points for one in kept[:4]] == [one.points for one in longer(run)]
    names = [Candidate.of(one).identity for one in kept]
    assert len(set(names)) == len(names)


def test_what_the_search_cost_bounds_it_and_what_still_rises_then_has_not_resisted(
    run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Steps cost their cube here, so that twice sixteen are more than the whole search."""
    monkeypatch.setattr(arm, "cost_of", lambda trials: sum(one.points[-1].steps ** 3 for one in trials))
    found = attacked(tmp_path / "run")
    assert [one.params["steps"] for one in longer(tmp_path / "run")] == [16, 16]
    (said,) = [flag.explanation for flag in found.flags if flag.name == "search-unconverged"]
    assert said.endswith("Climb reached 0.81 in 16 steps, 0.29 in the first half of them")
    assert events(run)["capability"].longest == LONGEST
