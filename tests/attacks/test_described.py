"""What is said of an attack's search space is what it asks for."""

from __future__ import annotations

from typing import Any

import pytest
from test_conformance import INFO

from redteam.attacks.described import described_space
from redteam.registry import ATTACKS
from redteam.testing.suggest import Drawn


class Nested:
    """Asks for more behind a choice behind a choice."""

    def space(self, suggest: Any, target: object, samples: int) -> dict[str, Any]:
        params = {"outer": suggest.suggest_categorical("outer", ["a", "b"])}
        if params["outer"] == "b":
            params["inner"] = suggest.suggest_categorical("inner", [1, 2])
            if params["inner"] == 2:
                params["rate"] = suggest.suggest_float("rate", 1e-4, 0.5, log=True)
        return params


def test_what_lies_behind_choices_is_found() -> None:
    found = described_space(Nested(), INFO, 10)  # type: ignore[arg-type]
    assert found == {"outer": "a, b", "inner": "1, 2", "rate": "0.0001 to 0.5, log scale"}


@pytest.mark.parametrize("name", ATTACKS.table)
def test_every_parameter_is_described(name: str) -> None:
    attack = ATTACKS.create(name)
    asked = {key for seed in range(200) for key in attack.space(Drawn(seed), INFO, 40)}
    assert asked == described_space(attack, INFO, 40).keys()
