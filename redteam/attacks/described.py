"""What an attack searches over, for people: every parameter with its range, and when it is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from redteam.attacks.contract import Attack
from redteam.target import TargetInfo


@dataclass(slots=True)
class _Asked:
    """A `Suggest` that takes the choices it is told, else the first, and notes everything it is asked for."""

    told: dict[str, Any]
    ranges: dict[str, str] = field(default_factory=dict)
    choices: dict[str, Sequence[Any]] = field(default_factory=dict)

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        self.ranges[name] = _written(low, high, log)
        return low

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        self.ranges[name] = _written(low, high, log)
        return low

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        self.choices[name] = choices
        self.ranges[name] = ", ".join(str(choice) for choice in choices)
        return self.told.get(name, choices[0])


def example_space(attack: Attack) -> dict[str, str]:
    """Returns what `described_space` does for some language model and 100 forget items."""
    info = TargetInfo(kind="language", architecture="any", parameters=0, layers=2, hidden_size=0)
    return described_space(attack, info, samples=100)


def described_space(attack: Attack, target: TargetInfo, samples: int) -> dict[str, str]:
    """Returns name -> range of every parameter that an attack may ask for, those behind a choice included.

    Args:
        attack: whose space.
        target: what it is asked about.
        samples: size of the attack split.
    """
    found: dict[str, str] = {}
    waiting: list[dict[str, Any]] = [{}]
    seen: set[tuple[str, str]] = set()
    while waiting:
        asked = _Asked(waiting.pop(0))
        attack.space(asked, target, samples)
        found = {**found, **asked.ranges}
        for name, choices in asked.choices.items():
            fresh = [choice for choice in choices if (name, str(choice)) not in seen]
            seen.update((name, str(choice)) for choice in fresh)
            waiting += [{**asked.told, name: choice} for choice in fresh]
    return found


def _written(low: float, high: float, log: bool) -> str:
    return f"{low:g} to {high:g}" + (", log scale" if log else "")
