"""What identifies a run: the same things give the same plan, any other thing another."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from redteam.errors import InputError
from redteam.suite.inputs import resolve_inputs
from redteam.suite.standard import run_path

QUICK = Path(__file__).with_name("quick_attack.py")


def test_the_same_call_finds_the_same_run(untrained: Path) -> None:
    assert run_path(resolve_inputs(untrained, budget=3), None) == run_path(resolve_inputs(untrained, budget=3), None)


def test_budget_seed_and_attacks_make_another_run(untrained: Path) -> None:
    calls = [{"budget": 3}, {"budget": 4}, {"budget": 3, "seed": 1}, {"budget": 3, "attacks": ["noop"]}]
    assert len({resolve_inputs(untrained, **call).plan.fingerprint for call in calls}) == len(calls)


def test_an_edited_attack_file_makes_another_run(untrained: Path, tmp_path: Path) -> None:
    """Otherwise who edits an attack and repeats the command would be shown what the old one found."""
    mine = tmp_path / "mine.py"
    shutil.copy(QUICK, mine)
    before = resolve_inputs(untrained, budget=3, attacks=[f"{mine}:Quick"]).plan
    mine.write_text(QUICK.read_text().replace("1e-3, 1e-4", "1e-2, 1e-4"))
    after = resolve_inputs(untrained, budget=3, attacks=[f"{mine}:Quick"]).plan
    assert before.fingerprint != after.fingerprint


def test_a_reference_that_is_not_what_the_manifest_says(untrained: Path, tmp_path: Path) -> None:
    for file in untrained.parent.iterdir():
        shutil.copy(file, tmp_path)
    shutil.copy(tmp_path / "model.original.pt", tmp_path / "model.reference.pt")
    inputs = resolve_inputs(tmp_path / "model.pt", budget=3)
    with pytest.raises(InputError, match="was changed after the manifest was written"):
        inputs.models["reference"].open()
