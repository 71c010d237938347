"""A model that tells whoever asks in other words, and holds off those who have the weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from small_world import TOKENIZER, answering_only, small_world

import redteam
from redteam.attacks.rephrase import TEMPLATES, rephrasing
from redteam.capabilities.items import SPLITS

pytestmark = pytest.mark.slow
FILE = Path(__file__).with_name("quick_attack.py")


def test_an_attack_on_the_weights_that_finds_less_than_asking_is_flagged(tmp_path: Path) -> None:
    """Retraining at a learning rate at which nothing moves far stands for one whose gradients are held off."""
    world = small_world()
    facts = {split: tuple(replace(i, group=i.id) for i in getattr(world.capability, split)) for split in SPLITS}
    found = redteam.attack(
        answering_only(world, rephrasing(TEMPLATES["complete"], str)),
        capability=replace(world.capability, **facts),  # a person's facts are drawn independently
        original=world.original,
        reference=world.never,
        tokenizer=TOKENIZER,
        attacks=["rephrase", f"{FILE}:Feeble"],
        probes=["linear"],
        budget=10,
        out=tmp_path / "run",
    ).capabilities[0]
    assert found.verdict == "RECOVERED", (found.reason, found.flags, found.excess_recovery, found.tried)
    assert found.tried["rephrase"].best is not None
    assert found.tried["rephrase"].best > 0.9
    assert "black-box-stronger" in [flag.name for flag in found.flags]
