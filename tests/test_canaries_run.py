"""Runs without a reference, and without an original: canaries stand for what is missing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from recorded_runs import judge_run
from small_world import TOKENIZER, SmallWorld, small_world, trained
from tiny_classifiers import tiny_points, trained_mlp
from torch import nn

import redteam
from redteam.capabilities.canaries import canaries
from redteam.capabilities.items import SPLITS
from redteam.evidence.evidence import read_evidence
from redteam.evidence.results import CapabilityResult
from redteam.judging.verdict import Policy
from redteam.suite import canaries as teaching
from redteam.suite.canaries import Untaught, taught
from redteam.suite.memo import Memo
from redteam.target import Target

SHORT = f"{Path(__file__).with_name('quick_attack.py')}:Short"
QUICK = f"{Path(__file__).with_name('quick_attack.py')}:Quick"
HIDES = ("probe-reads", "surely-wrong")  # what a model behind noise on its head raises: all of it is still there
LAX = Policy(max_excess_recovery=0.4)  # what 45 facts can tell


@pytest.fixture(scope="module")
def world() -> SmallWorld:
    """Each fact by itself: those of a person are drawn independently."""
    made = small_world()
    facts: dict[str, Any] = {
        split: tuple(replace(item, group=item.id) for item in getattr(made.capability, split)) for split in SPLITS
    }
    return replace(made, capability=replace(made.capability, **facts))


@pytest.fixture(scope="module")
def memo() -> Memo:
    """What several runs do with the same models is done once."""
    return Memo()


def attacked(world: SmallWorld, target: nn.Module, out: Path, **changes: Any) -> CapabilityResult:
    how: dict[str, Any] = {"attacks": [SHORT], "probes": ["linear"], "budget": 4, "tokenizer": TOKENIZER}
    redteam.attack(target, capability=world.capability, out=out, **{**how, **changes})
    return judge_run(out, LAX)


@pytest.mark.slow
def test_without_a_reference_the_verdicts_are_the_known_ones(world: SmallWorld, memo: Memo, tmp_path: Path) -> None:
    masked = attacked(world, world.masked(), tmp_path / "masked", original=world.original, memo=memo)
    assert (masked.verdict, [flag.name for flag in masked.flags if flag.name not in HIDES]) == ("RECOVERED", [])
    assert masked.scores["canary"].after is not None
    assert masked.scores["canary"].after.low < 0.2  # nobody can learn what was drawn
    never = attacked(world, world.never, tmp_path / "never", original=world.original, memo=memo)
    assert (never.verdict, never.flags) == ("RESISTED", [])
    nothing = attacked(world, world.masked(), tmp_path / "noop", original=world.original, memo=memo, attacks=["noop"])
    assert nothing.verdict == "INCONCLUSIVE"


@pytest.mark.slow
def test_a_reference_that_hides_some_of_it_is_found_by_drawn_answers(
    world: SmallWorld, memo: Memo, tmp_path: Path
) -> None:
    """What hides half from the eye comes back of it under attack, and would pass for what attacks teach."""
    facts, known = world.capability.certify, world.capability
    some = known.retain + known.utility + known.attack + known.select + facts[: len(facts) // 2]
    reference = replace(world, original=trained(some, seed=2)).masked()
    both = {"original": world.original, "memo": memo}
    leaking = attacked(world, world.never, tmp_path / "leaking", reference=reference, **both)
    honest = attacked(world, world.never, tmp_path / "honest", reference=trained(known.retain), **both)
    assert "reference-leaks" in [flag.name for flag in leaking.flags]
    assert leaking.scores["reference"].before < 0.25
    assert "reference-leaks" not in [flag.name for flag in honest.flags]
    assert honest.scores["canary"].after is not None
    searched = [key for key in read_evidence(tmp_path / "honest").by_key if key.startswith("canary/search")]
    assert searched == []  # what won on the reference is tried, and nothing is searched for


@pytest.mark.slow
@pytest.mark.parametrize("given", [(), ("reference",)])
def test_without_an_original_what_comes_back_is_recovered_and_nothing_resists(
    world: SmallWorld, given: tuple[str, ...], memo: Memo, tmp_path: Path
) -> None:
    stays = world.capability.retain + world.capability.utility
    others: dict[str, Any] = {"memo": memo, **({"reference": trained(stays, seed=2)} if given else {})}
    masked = attacked(world, world.masked(), tmp_path / "masked", **others)
    assert masked.verdict == "RECOVERED"
    assert masked.scores["taught"].before > 0.9
    assert masked.scores["decoy"].before < 0.6
    never = attacked(world, world.never, tmp_path / "never", **others)
    # Whether so short an attack breaks the decoy of so few facts differs from one world to the next.
    failed = [] if never.control_recovered else ["control-failed"]
    assert (never.verdict, [flag.name for flag in never.flags]) == ("INCONCLUSIVE", ["no-original", *failed])
    decoy = never.scores["decoy"]
    assert decoy.after is not None
    assert decoy.after.estimate > decoy.before + 0.2


def test_a_run_says_what_stood_for_what(untrained: Path, tmp_path: Path) -> None:
    """Models that know nothing: every stage runs, and a second time nothing is run again."""
    from redteam.checkpoints.load import open_target

    target = open_target(untrained)
    given: dict[str, Any] = {
        "tokenizer": target.tokenizer, "capability": untrained.with_name("capability.toml"), "attacks": [QUICK],
        "probes": ["linear"], "budget": 2, "out": tmp_path / "run",
    }  # fmt: skip
    found = redteam.attack(target.module, **given)
    result = found.capabilities[0]
    assert {"target", "canary", "taught"} <= result.scores.keys()
    assert "no-original" in [flag.name for flag in result.flags]
    before = (tmp_path / "run" / "events.jsonl").read_bytes()
    assert redteam.attack(target.module, **given) == found
    assert (tmp_path / "run" / "events.jsonl").read_bytes() == before


def test_of_a_classifier_nothing_stands_for_a_reference(tmp_path: Path) -> None:
    points = tiny_points()
    original, target = (trained_mlp(points, forget=forget) for forget in (True, False))
    result = redteam.attack(
        target, original=original, capability=points, attacks=[QUICK], budget=2, probes=["linear"], out=tmp_path / "run"
    ).capabilities[0]
    assert result.verdict == "INCONCLUSIVE"
    assert "unreferenced" in [flag.name for flag in result.flags]
    notes = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    assert [row["error"] for row in notes if row["key"] == "canary/none"] == ["a class is no fact that could be drawn"]


def test_what_cannot_be_taught_is_told(untrained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Learning rates at which nothing is learnt, and one that destroys the model."""
    from redteam.capabilities.files import load_capability
    from redteam.checkpoints.load import open_target

    drawn = canaries(load_capability(untrained.with_name("capability.toml")), 0)
    for rates in ((1e-9,), (1e30,)):
        monkeypatch.setattr(teaching, "RATES", rates)
        monkeypatch.setattr(teaching, "ROUNDS", 1)
        target: Target = open_target(untrained)
        before = [weight.clone() for weight in target.module.parameters()]
        with pytest.raises(Untaught, match="no learning rate"):
            taught(target, drawn, seed=0)
        assert all(torch.equal(one, other) for one, other in zip(before, target.module.parameters(), strict=True))
