"""A recipe that breaks the decoy has shown what the control is for, and no other is run; else all of them are."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_classifiers import tiny_points, trained_mlp

import redteam
from redteam.evidence.events import TrialEvent
from redteam.evidence.log import read_events
from redteam.search.selection import SEEDS, Candidate
from redteam.suite.progress import Silent

ATTACKS = f"{Path(__file__).parents[1] / 'quick_attack.py'}"


class Counted(Silent):
    """Progress that counts trials."""

    planned, made = 0, 0

    def plan(self, trials: int) -> None:
        self.planned = trials

    def trial(self, score: float | None) -> None:
        self.made += 1


@pytest.mark.parametrize(("attack", "breaks"), [("Mixed", True), ("Feeble", False)])
def test_the_decoy_is_given_recipes_until_one_breaks_it(attack: str, breaks: bool, tmp_path: Path) -> None:
    points, progress = tiny_points(), Counted()
    models = {name: trained_mlp(points, forget=name == "original", seed=seed)
              for seed, name in enumerate(("original", "target", "reference"))}  # fmt: skip
    target = models.pop("target")
    found = redteam.attack(
        target, capability=points, attacks=[f"{ATTACKS}:{attack}"], probes=["means"], budget=3, out=tmp_path / "run",
        progress=progress, **models,
    )  # fmt: skip
    log = tmp_path / "run" / "events.jsonl"
    trials = [event for event in read_events(log.read_bytes(), log) if isinstance(event, TrialEvent)]
    recipes, again, confirmed, winners = (
        [trial for trial in trials if trial.key.startswith(stage)]
        for stage in ("decoy/search/", "decoy/again/", "decoy/confirm/", "target/confirm/")
    )
    scores = found.capabilities[0].scores
    hidden = scores["original"].before - scores["decoy"].before
    assert hidden > 0.3
    back = (recipes[-1].value or 0.0) - recipes[-1].points[0].select
    assert (back > 0.7 * hidden) == breaks == found.capabilities[0].control_recovered
    assert len(recipes) == 1  # of two: the first breaks it; `Feeble` has one
    assert len(confirmed) == SEEDS * len({Candidate.of(trial).identity for trial in confirmed})
    given = {Candidate.of(trial).identity for trial in winners}
    own = {Candidate.of(recipes[0]).identity}
    assert {Candidate.of(trial).identity for trial in again} == (own if breaks else own | given)
    assert {Candidate.of(trial).identity for trial in confirmed} <= own | given
    assert progress.made == progress.planned == len(trials)
