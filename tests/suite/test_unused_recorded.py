"""What a run records of the units that nothing depends on."""

from __future__ import annotations

from dataclasses import replace

import pytest
from closed_doors import DOORS
from tiny_models import tiny_capability, tiny_target

from redteam.setting import open_setting
from redteam.suite.records import before_event


@pytest.mark.parametrize("role", ["target", "original", "reference", "canary", "decoy"])
def test_closed_units_are_recorded_of_models_that_were_given(role: str) -> None:
    door = DOORS["gates at -1000"]
    opened, closed = (
        open_setting(replace(tiny_target(), module=module), tiny_capability()) for module in door.models()
    )
    found = before_event(role, closed)[0].unused
    given = role in ("target", "original", "reference")
    assert {layer: few / all_ for layer, (few, all_) in found.items()} == (door.share if given else {})
    assert before_event(role, opened)[0].unused == {}
