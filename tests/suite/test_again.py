"""The best of a search are run once more before it is decided which of them to confirm."""

from __future__ import annotations

import json
from collections import Counter
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from tiny_classifiers import tiny_mlp, tiny_points, trained_mlp

import redteam
from redteam.evidence.events import ChoiceEvent, TrialEvent
from redteam.evidence.log import read_events
from redteam.evidence.results import Results
from redteam.search.selection import SEEDS, Candidate, averaged, choice_of, contenders
from redteam.suite import arm
from redteam.suite.progress import Silent
from redteam.trial import TrialSpec, run_trial

QUICK = f"{Path(__file__).parents[1] / 'quick_attack.py'}:Quick"
BUDGET = 16  # the fewest trials after which anything is run again


def attacked(out: Path, **changes: Any) -> Results:
    points = tiny_points()
    models = {"original": trained_mlp(points, forget=True), "reference": trained_mlp(points, forget=False, seed=1)}
    how = {"capability": points, "attacks": [QUICK], "probes": ["means"], "budget": BUDGET, "out": out}
    return redteam.attack(tiny_mlp(3), **{**models, **how, **changes})


def trials(run: Path, stage: str = "target/") -> dict[str, TrialEvent]:
    log = run / "events.jsonl"
    events = list(read_events(log.read_bytes(), log))
    assert len({event.key for event in events}) == len(events), "something was run twice"
    return {event.key: event for event in events if isinstance(event, TrialEvent) and event.key.startswith(stage)}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("again") / "run"
    attacked(out)
    return out


def chosen(run: Path, role: str) -> ChoiceEvent:
    log = run / "events.jsonl"
    return next(one for one in read_events(log.read_bytes(), log) if one.key == f"{role}/choice")


@pytest.mark.parametrize("role", ["target", "reference"])
def test_the_contenders_are_run_again_and_the_best_on_average_confirmed(run: Path, role: str) -> None:
    searched, again = trials(run, f"{role}/search/").values(), trials(run, f"{role}/again/").values()
    utility = 0.8 * next(iter(searched)).points[0].utility
    winners = {one.identity: one for one in map(Candidate.of, trials(run, "target/confirm/").values())}
    others = list(winners.values()) if role == "reference" else []
    contested = contenders(searched, utility, 4, others)
    assert {Candidate.of(row).identity for row in again} == {one.identity for one in contested}
    assert len(contested) == 4
    seen = [row for row in (*searched, *again) if Candidate.of(row).identity in {one.identity for one in contested}]
    times = Counter(Candidate.of(row).identity for row in seen)
    assert set(times.values()) == {2, 3}
    finalists = [name for name, count in times.items() if count == 3]
    assert 3 <= len(finalists) <= 4
    ranked = averaged(row for row in seen if Candidate.of(row).identity in finalists)
    best, choice = choice_of(ranked, utility), chosen(run, role)
    assert choice.floor == best is not None
    confirmed = trials(run, f"{role}/confirm/").values()
    assert {Candidate.of(row).identity for row in confirmed} == {
        Candidate(attack=one.attack, params=one.params).identity for one in (choice.floor, choice.any_utility) if one
    }
    assert len({row.seed for row in confirmed}) == len(confirmed)
    assert {len(list(same)) for _, same in groupby(confirmed, key=lambda row: row.configuration)} == {SEEDS}


@pytest.mark.parametrize("role", ["target", "reference", "decoy"])
def test_what_is_told_stops_where_it_was_chosen_to(run: Path, role: str) -> None:
    """And not at another step that came out better on the seeds that confirm: those would be lucky ones."""
    found = Results.model_validate_json((run / "results.json").read_text()).capabilities[0].scores[role]
    event = chosen(run, role)
    choice = None if event.floor is None or event.floor.select <= event.released else event.floor
    confirmed = [row for row in trials(run, f"{role}/confirm/").values() if choice and row.params == choice.params]
    assert (found.attack is None) == (choice is None)
    if choice is not None:
        assert found.attack is not None
        assert found.attack["stopped_at"] == choice.steps
        at = [next(point for point in row.points if point.steps == choice.steps) for row in confirmed]
        assert found.after is not None
        assert found.after.estimate == pytest.approx(sum(point.certify or 0.0 for point in at) / len(at), abs=1e-6)


def test_the_seeds_are_fresh_and_the_certify_split_is_not_looked_at(run: Path) -> None:
    rows = trials(run)
    seeds = [trial.seed for trial in rows.values()]
    assert len(set(seeds)) == len(seeds)
    scored = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
    names = {row["name"].split("@")[0] for row in scored if "/again/" in row["key"]}
    assert names == {"select"}


def test_what_was_run_again_is_told(run: Path) -> None:
    budget = Results.model_validate_json((run / "results.json").read_text()).capabilities[0].budget
    assert budget.again == sum(len(trials(run, f"{role}/again/")) for role in ("target", "reference", "decoy")) >= 14
    assert budget.spent == BUDGET


def test_of_a_small_search_three_are_run_again(tmp_path: Path) -> None:
    attacked(tmp_path / "run", budget=4)
    again = [Candidate.of(row).identity for row in trials(tmp_path / "run", "target/again/").values()]
    assert len(set(again)) == 3


@pytest.mark.parametrize("stop", ["target/again/01-0", "reference/again/00-0", "target/confirm/00-3"])
def test_stopped_there_and_repeated(run: Path, stop: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(setting: Any, adversary: Any, spec: TrialSpec) -> Any:
        if spec.key == stop:
            raise KeyboardInterrupt
        return run_trial(setting, adversary, spec)

    with monkeypatch.context() as patch:
        patch.setattr(arm, "run_trial", interrupted)
        with pytest.raises(KeyboardInterrupt):
            attacked(tmp_path / "run")
    assert stop not in trials(tmp_path / "run", "")
    attacked(tmp_path / "run")
    assert (tmp_path / "run" / "results.json").read_bytes() == (run / "results.json").read_bytes()
    assert [trial.params for trial in trials(tmp_path / "run").values()] == [
        trial.params for trial in trials(run).values()
    ]


def test_a_run_that_goes_on_keeps_what_was_run_again(run: Path, tmp_path: Path) -> None:
    attacked(tmp_path / "run", budget=8, extend=run)
    before, after = (trials(place, "target/again/") for place in (run, tmp_path / "run"))
    assert after.items() >= {key: after[key] for key in before}.items()
    assert {key: trial.points for key, trial in before.items()} == {key: after[key].points for key in before}


def test_the_trials_that_a_run_announces_are_those_that_it_makes(tmp_path: Path) -> None:
    class Counted(Silent):
        planned, made = 0, 0

        def plan(self, trials: int) -> None:
            self.planned = trials

        def trial(self, score: float | None) -> None:
            self.made += 1

    progress = Counted()
    attacked(tmp_path / "run", progress=progress)
    assert progress.made == progress.planned == len(trials(tmp_path / "run", ""))
