"""Families that only ask, each alone through the whole suite: they open the decoy that is made for them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from recorded_runs import judge_run
from small_world import SIZES, TOKENIZER, SmallWorld, answering_also, small_world, trained
from torch import nn

import redteam
from redteam.attacks.in_context import shown_before
from redteam.attacks.rephrase import TEMPLATES, rephrasing
from redteam.capabilities.wording import Rewrite
from redteam.registry import ATTACKS


@pytest.fixture(scope="module")
def world() -> SmallWorld:
    """A phrase is searched for on half of the facts that other tests attack with, in half of the time."""
    return small_world({**SIZES, "attack": 30})


@pytest.fixture(scope="module")
def reference(world: SmallWorld) -> nn.Module:
    return trained(world.capability.retain + world.capability.utility, seed=2)


def complete(_world: SmallWorld) -> Rewrite:
    return rephrasing(TEMPLATES["complete"], str)


def shown(world: SmallWorld) -> Rewrite:
    return shown_before(world.capability.retain, 1, " ", nearest=True)


@pytest.fixture(autouse=True)
def _few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recipes of two families take fewer steps: their decoy opens all the same."""

    def few(name: str, steps: int) -> None:
        attack = type(ATTACKS.create(name))
        recipes = attack.recipes
        monkeypatch.setattr(
            attack, "recipes", lambda *given: [{**params, "steps": steps} for params in recipes(*given)]
        )

    few("suffix", 8)
    few("soft-prompt", 32)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "understood", "opens"),
    [
        ("soft-prompt", complete, True),
        ("suffix", complete, True),
        ("in-context", shown, True),
        ("rephrase", complete, True),
        ("noop", complete, False),
    ],
)
def test_a_family_that_asks_breaks_its_decoy_through_the_suite(
    name: str, understood: Callable[[SmallWorld], Rewrite], opens: bool, world: SmallWorld, reference: nn.Module,
    tmp_path: Path,
) -> None:  # fmt: skip
    """The original understands one other way to ask; a model of so few facts knows no language."""
    redteam.attack(
        world.never, tokenizer=TOKENIZER, capability=world.capability, reference=reference,
        original=answering_also(world, understood(world)), attacks=[name], probes=["means"], budget=1, out=tmp_path,
    )  # fmt: skip
    found = judge_run(tmp_path)
    assert found.control_recovered is opens
    assert ("control-failed" in [flag.name for flag in found.flags]) is not opens
    assert found.scores["decoy"].before < 0.5
