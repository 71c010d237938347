"""Another seed on the same facts is another chance to be wrong: runs beside a run are counted, and cost confidence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_classifiers import tiny_points, trained_mlp

import redteam
from redteam.config.policy import Rules
from redteam.evidence.evidence import read_evidence
from redteam.evidence.results import CapabilityResult
from redteam.release import certify

QUICK = f"{Path(__file__).parents[1] / 'quick_attack.py'}:Quick"
POINTS = tiny_points()
MODELS: dict[str, Any] = {
    "original": trained_mlp(POINTS, forget=True),
    "reference": trained_mlp(POINTS, forget=False, seed=1),
}


def attacked(out: Path, seed: int, target: int = 0) -> CapabilityResult:
    (found,) = redteam.attack(
        trained_mlp(POINTS, forget=False, seed=target), capability=POINTS, attacks=[QUICK], probes=["means"], budget=2,
        seed=seed, out=out, **MODELS,
    ).capabilities  # fmt: skip
    return found


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, one with another seed beside it, one of another target, one that was not finished, and what is no run."""
    folder = tmp_path_factory.mktemp("runs")
    attacked(folder / "first", seed=0)
    attacked(folder / "other", seed=5, target=2)
    (folder / "no run").mkdir()
    (folder / "no run" / "manifest.json").write_text("[]")
    (folder / "no run" / "results.json").write_text("{}")
    (folder / "begun").mkdir()
    plan = json.loads((folder / "first" / "manifest.json").read_text())
    (folder / "begun" / "manifest.json").write_text(json.dumps({**plan, "seed": 7}))
    attacked(folder / "second", seed=1)
    return folder


@pytest.mark.parametrize(("name", "looks", "seeds"), [("first", 1, ()), ("other", 1, ()), ("second", 2, (0,))])
def test_a_run_counts_those_beside_it(runs: Path, name: str, looks: int, seeds: tuple[int, ...]) -> None:
    capability = read_evidence(runs / name).capability
    assert (capability.looks, capability.other_seeds) == (looks, seeds)


def test_a_second_look_is_held_to_half_the_error(runs: Path) -> None:
    found = [json.loads((runs / name / "results.json").read_text())["capabilities"][0] for name in ("first", "second")]
    assert [result["policy"]["confidence"] for result in found] == [0.95, 0.975]


def test_the_same_run_again_is_no_look(runs: Path) -> None:
    assert attacked(runs / "first", seed=0).looks == 1
    assert attacked(runs / "second", seed=1).looks == 2


def test_in_a_place_of_its_own_nothing_is_known_of_others(tmp_path: Path) -> None:
    assert attacked(tmp_path / "alone" / "run", seed=1).looks == 1


def test_a_certificate_says_it(runs: Path) -> None:
    certificate, _ = certify(runs / "second", Rules(min_budget=1))
    (told,) = [line for line in certificate.predicate.limitations if "look 2" in line]
    assert "the same facts (runs beside it had seed 0)" in told
