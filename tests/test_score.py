"""`redteam score`: what models score as they are, told as a run tells it before any attack."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from run_redteam import ONE_PROBE, redteam

from redteam.capabilities.files import load_capability
from redteam.checkpoints.load import open_target
from redteam.evidence.results import Results

NAMES = ("name", "scorer", "chance")


@pytest.fixture(scope="module")
def scored(untrained: Path) -> dict[str, Any]:
    done = redteam("score", untrained, "--format", "json")
    assert done.returncode == 0, done.stderr
    (capability,) = json.loads(done.stdout)["capabilities"]
    return capability


def test_it_is_what_a_run_finds_before_any_attack(scored: dict[str, Any], untrained: Path, tmp_path: Path) -> None:
    given = ("-a", "noop", *ONE_PROBE, "--budget", "1", "--format", "json", "--out", tmp_path / "run")
    done = redteam("attack", untrained, *given)
    found = Results.model_validate_json(done.stdout).capabilities[0]
    assert [scored[name] for name in NAMES] == [getattr(found, name) for name in NAMES]
    assert (scored["items"], scored["facts"]) == (found.certify_items, found.certify_groups)
    assert [model["role"] for model in scored["models"]] == ["target", "original", "reference"]
    for model in scored["models"]:
        before = found.scores[model["role"]]
        assert model["score"]["estimate"] == pytest.approx(before.before)
        assert model["utility"]["estimate"] == pytest.approx(before.utility_before)


@torch.no_grad()
def test_it_is_how_often_the_right_choice_is_the_likeliest(scored: dict[str, Any], untrained: Path) -> None:
    """Counted item by item, without the package's scorers: here choices are one token."""
    target, capability = open_target(untrained), load_capability(untrained.with_name("capability.toml"))
    words = target.tokenizer
    assert words is not None
    right = 0
    for item in capability.certify:
        last = target.module(**words(item.prompt, return_tensors="pt")).logits[0, -1]
        ids = [words(f"{item.prompt} {choice}")["input_ids"] for choice in item.choices]
        assert {len(one) for one in ids} == {len(words(item.prompt)["input_ids"]) + 1}
        right += int(max(range(len(ids)), key=lambda n: float(last[ids[n][-1]]))) == item.answer
    assert scored["models"][0]["score"]["estimate"] == pytest.approx(right / len(capability.certify))


def test_intervals_hold_their_estimates(scored: dict[str, Any]) -> None:
    for model in scored["models"]:
        for interval in (model["score"], model["utility"], *model["also"].values()):
            assert 0 <= interval["low"] <= interval["estimate"] <= interval["high"] <= 1
            assert interval["low"] < interval["high"]


def test_the_table_names_every_model_and_leaves_nothing_behind(untrained: Path, tmp_path: Path) -> None:
    done = redteam("score", untrained, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for told in ("target", "original", "reference (never knew)", "held-out items", "no evidence of removal"):
        assert told in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (["missing.pt"], "missing.pt"),
        (["{model}", "--capability", "missing.toml"], "missing.toml"),
        (["{model}", "--device", "abacus"], "abacus"),
        ([], "no checkpoint was given"),
    ],
)
def test_what_cannot_be_scored_is_one_line(given: list[str], found: str, untrained: Path, tmp_path: Path) -> None:
    done = redteam("score", *(one.format(model=untrained) for one in given), cwd=tmp_path)
    assert done.returncode == 2
    assert found in done.stderr
    assert len([line for line in done.stderr.splitlines() if line.startswith("error: ")]) == 1
    assert "Traceback" not in done.stderr
