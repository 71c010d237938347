"""Several models that never knew: each is attacked, and how they differ is in the verdict."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_classifiers import tiny_points, trained_mlp

import redteam
from redteam.checkpoints.save import save_checkpoint
from redteam.config.request import RunRequest
from redteam.errors import InputError
from redteam.evidence.events import TrialEvent
from redteam.evidence.evidence import Evidence, read_evidence
from redteam.evidence.results import Results
from redteam.judging.case import case_of
from redteam.judging.verdict import STANDARD_POLICY
from redteam.suite.inputs import resolve_one

QUICK = f"{Path(__file__).parents[1] / 'quick_attack.py'}:Quick"
POINTS = tiny_points()


def never(seed: int) -> Any:
    return trained_mlp(POINTS, forget=False, seed=seed)


def attacked(out: Path, references: Any) -> tuple[Results, Evidence]:
    found = redteam.attack(
        never(0), capability=POINTS, original=trained_mlp(POINTS, forget=True), reference=references,
        attacks=[QUICK], probes=["means"], budget=4, out=out,
    )  # fmt: skip
    return found, read_evidence(out)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Results, Evidence]:
    return attacked(tmp_path_factory.mktemp("references") / "run", [never(1), never(2), never(3)])


def test_each_is_read_attacked_and_told(run: tuple[Results, Evidence]) -> None:
    results, evidence = run
    assert evidence.references == ("reference", "reference-2", "reference-3")
    scores = results.capabilities[0].scores
    assert list(scores) == ["original", "target", *evidence.references, "decoy"]
    for role in evidence.references:
        assert scores[role].after is not None
        assert len(evidence.confirmed(role)) >= 5
        assert bool(evidence.search(role)) == (role == "reference")  # what wins there, and on the target, is enough
    assert "failed-trials" not in {flag.name for flag in results.capabilities[0].flags}


def test_excess_recovery_is_beyond_their_mean(run: tuple[Results, Evidence]) -> None:
    _, evidence = run
    case = case_of(evidence, STANDARD_POLICY)
    means = [case.strongest(role).certify.mean() for role in evidence.references]
    whole, target = case.whole().mean(), case.strongest("target").certify.mean()
    assert case.excess_recovery is not None
    assert case.excess_recovery.raw == pytest.approx((target - np.mean(means)) / (whole - np.mean(means)))


def test_a_further_reference_is_given_what_won_on_the_first_and_on_the_target(run: tuple[Results, Evidence]) -> None:
    _, evidence = run

    def tried(role: str, stage: Any) -> set[str]:
        trials: list[TrialEvent] = evidence.trials(role, stage)
        return {str(trial.params) for trial in trials}

    assert tried("reference-2", "again") == tried("target", "confirm") | tried("reference", "confirm")


def test_one_of_them_that_knew_is_flagged(tmp_path: Path) -> None:
    knows = trained_mlp(POINTS, forget=True, seed=5)
    results, _ = attacked(tmp_path / "run", [never(1), knows])
    flags = {flag.name: flag.explanation for flag in results.capabilities[0].flags}
    assert "reference-2" in flags["reference-knows"]


def test_one_given_twice_is_refused_before_the_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="one reference is given twice"):
        attacked(tmp_path / "run", [never(1), never(1)])
    assert not (tmp_path / "run").exists()


def test_the_same_weights_in_another_form_are_refused(tmp_path: Path) -> None:
    for form in ("a.pt", "b.safetensors"):
        save_checkpoint(tmp_path / form, never(1), None)
    with pytest.raises(InputError, match="the reference has the weights of the reference"):
        attacked(tmp_path / "run", [tmp_path / "a.pt", tmp_path / "b.safetensors"])


def test_the_plan_of_one_reference_is_what_it_was(tmp_path: Path) -> None:
    """Runs of before there were several go on: their fingerprint is the same."""
    save_checkpoint(tmp_path / "target.pt", never(0), None)
    places = []
    for seed in (1, 2):
        places.append(tmp_path / f"{seed}.pt")
        save_checkpoint(places[-1], never(seed), None)

    def plan(*references: Path) -> Any:
        asked = RunRequest(target=tmp_path / "target.pt", capability=(POINTS,), reference=references, attacks=(QUICK,))
        return resolve_one(asked).plan

    one, two = plan(places[0]), plan(*places)
    assert one.reference == two.reference
    assert one.further_references == ()
    assert len(two.further_references) == 1
    assert len({one.fingerprint, two.fingerprint, plan(*reversed(places)).fingerprint}) == 3
