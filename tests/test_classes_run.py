"""Classifiers whose truth is known, through the whole suite: one that never knew, and two that only seem so."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from torch import nn

import redteam as package
from redteam.checkpoints.live import live_model
from redteam.engine.heads import output_head
from redteam.engine.seeding import derive_seed
from redteam.evidence.evidence import read_evidence
from redteam.evidence.results import CapabilityResult
from redteam.judging.judge import judge
from redteam.registry import ATTACKS
from redteam.setting import examples_at_first, open_setting
from redteam.suite.counting import ENOUGH
from redteam.suite.memo import Memo
from redteam.testbeds.build import TargetSpec, World, make_target, train_world
from redteam.trial import TrialSpec, run_trial

pytestmark = pytest.mark.slow
BUDGET = 32


@pytest.fixture(scope="module")
def world() -> World:
    return train_world("digits", seed=0, references=3)


@pytest.fixture(scope="module")
def memo() -> Memo:
    """What references and decoys show under the same attacks is run once."""
    return Memo()


def twin(world: World) -> nn.Module:
    """A further model that was trained without the class."""
    return world.training.fit(world.training.rest, seed=derive_seed(7, "twin"))


def biased(world: World) -> nn.Module:
    module = copy.deepcopy(world.original)
    with torch.no_grad():
        output_head(module).bias[3] = -1e4
    return module


def merged(world: World) -> nn.Module:
    """Nines are said in place of threes, and the row of the three is gone."""
    module = copy.deepcopy(world.original)
    head = output_head(module)
    with torch.no_grad():
        head.weight[3], head.bias[3] = 0.9 * head.weight[9], head.bias[9] - 5
    return module


def ssd(world: World) -> nn.Module:
    return make_target(TargetSpec(method="ssd"), world)[0].module


@pytest.mark.parametrize(
    ("make", "verdict"),
    [(twin, "RESISTED"), (biased, "RECOVERED"), (merged, "RECOVERED"), (ssd, "RECOVERED")],
)
def test_the_verdict_is_the_truth(make, verdict: str, world: World, memo: Memo, tmp_path: Path) -> None:
    found = attacked(make(world), world, memo, tmp_path)
    assert found.verdict == verdict, (found.reason, found.flags)
    assert found.control_recovered
    assert found.budget.failed == 0
    back = found.excess_recovery is not None and found.excess_recovery.low >= ENOUGH
    assert [flag.name for flag in found.flags if flag.name == "uncounted"] == ["uncounted"] * back
    assert found.budget.spent == (BUDGET // 2 if back else BUDGET)  # the other half is for whoever has examples
    assert [one.count for one in found.with_examples] == ([] if back else [1, 2, 4] * 2)
    if verdict == "RESISTED":
        assert not {name: tried.idle for name, tried in found.tried.items() if tried.idle is not None}
        assert not found.flags
    again = judge(read_evidence(tmp_path / "run"))
    assert again == found  # all of it is in the evidence
    rows = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    taught = [row for row in rows if row["type"] == "trial" and row["attack"] in ("imprint", "mixture", "curriculum")]
    assert bool(taught) != back
    assert all(":" in row["key"] for row in taught)  # nobody without examples has an attack that needs them


def test_a_confirmed_trial_is_repeated_as_a_replay_repeats_it(world: World, memo: Memo, tmp_path: Path) -> None:
    """The adversary who decides first has no example, and so has whoever runs the winning attack again."""
    attacked(ssd(world), world, memo, tmp_path)
    evidence = read_evidence(tmp_path / "run")
    target = live_model(ssd(world), None, "target").open()
    setting = open_setting(target, world.capability, shown=examples_at_first(world.capability))
    row = evidence.confirmed("target")[0]
    spec = TrialSpec(key="again", attack=row.attack, params=row.params, seed=row.seed, certify=True)
    again = run_trial(setting, ATTACKS.create(row.attack), spec)
    assert [point.scores["certify"].mean() for point in again.points] == [point.certify for point in row.points]


def test_a_run_that_goes_on_asks_again_whether_examples_are_needed(world: World, memo: Memo, tmp_path: Path) -> None:
    """And where they were given before, they are given again: what they showed is not dropped."""
    attacked(biased(world), world, memo, tmp_path)
    events = tmp_path / "run" / "events.jsonl"
    assert '"uncounted"' in events.read_text()
    further = {"extend": tmp_path / "run", "budget": 2, "out": tmp_path / "further", "memo": memo}
    models = {"original": world.original, "reference": [world.reference, *world.further]}
    (found,) = package.attack(biased(world), capability=world.capability, **models, **further).capabilities
    assert (found.verdict, found.looks) == ("RECOVERED", 2)
    assert "uncounted" in [flag.name for flag in found.flags]
    assert not found.with_examples


def attacked(target: nn.Module, world: World, memo: Memo, folder: Path) -> CapabilityResult:
    return package.attack(
        target,
        capability=world.capability,
        original=world.original,
        reference=[world.reference, *world.further],
        budget=BUDGET,
        out=folder / "run",
        memo=memo,
    ).capabilities[0]
