"""What a reading must be to be judged."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from redteam.probes.contract import ProbeReading, UnusableReading, checked

READING = ProbeReading(
    layer="last", correct=(1.0, 0.5), control=(0.0, 0.0), by_layer={"last": 0.7}, notes={"bits": 3.0}
)


def test_numbers_become_plain_floats() -> None:
    found = checked(replace(READING, correct=tuple(np.float32([1, 0.5])), notes={"bits": np.float32(3)}, chance=1), 2)
    assert found == replace(READING, chance=1.0)
    assert {type(value) for value in (*found.correct, *found.notes.values(), found.chance)} == {float}


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"correct": (1.0,)}, "correct has 1 numbers for 2 certify items"),
        ({"control": ()}, "control has 0 numbers for 2 certify items"),
        ({"erased": (1.0,)}, "erased has 1 numbers for 2 certify items"),
        ({"correct": (1.0, float("nan"))}, "correct holds nan"),
        ({"correct": (-0.1, 1.0)}, "correct holds -0.1"),
        ({"control": (0.0, 2.0)}, "control holds 2"),
        ({"erased": (float("inf"), 0.0)}, "erased holds inf"),
        ({"chance": float("nan")}, "chance holds nan"),
        ({"chance": 7.0}, "chance holds 7"),
        ({"by_layer": {"first": float("nan")}}, "by_layer says nan of 'first'"),
        ({"notes": {"bits": float("inf")}}, "notes says inf of 'bits'"),
    ],
)
def test_what_cannot_be_judged_is_refused(wrong: dict[str, Any], why: str) -> None:
    with pytest.raises(UnusableReading, match=why):
        checked(replace(READING, **wrong), 2)
