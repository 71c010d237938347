"""Two ways to answer an attack that asks for parameters: by chance, and from a recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from redteam.testing.promise import BrokenPromise


class Drawn:
    """A `Suggest` that draws every value by chance, and notes what it was asked for.

    Attributes:
        given: name -> the value that was drawn.
        names: in the order in which they were asked for, repetitions kept.
    """

    def __init__(self, seed: int) -> None:
        self._draw = torch.Generator().manual_seed(seed)
        self.given: dict[str, Any] = {}
        self.names: list[str] = []

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """Returns a float in [low, high]."""
        _ordered(name, low, high, log)
        return float(self._note(name, low + (high - low) * self._share()))

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        """Returns an integer in [low, high]."""
        _ordered(name, low, high, log)
        return int(self._note(name, min(high, low + int((high - low + 1) * self._share()))))

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """Returns one of the choices."""
        _some(name, choices)
        return self._note(name, choices[int(len(choices) * self._share())])

    def _share(self) -> float:
        return float(torch.rand((), generator=self._draw))

    def _note(self, name: str, value: Any) -> Any:
        self.names.append(name)
        self.given[name] = value
        return value


class Told:
    """A `Suggest` that returns what a recipe says, if that is among what is asked for.

    Attributes:
        names: that were asked for.
    """

    def __init__(self, recipe: Mapping[str, Any]) -> None:
        self.recipe, self.names = recipe, set[str]()

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """Returns the recipe's float."""
        _ordered(name, low, high, log)
        return float(self._between(name, low, high, float))

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        """Returns the recipe's integer."""
        _ordered(name, low, high, log)
        return int(self._between(name, low, high, int))

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """Returns the recipe's choice."""
        _some(name, choices)
        value = self._value(name)
        if not any(type(choice) is type(value) and choice == value for choice in choices):
            raise BrokenPromise(f"a recipe has {name}={value!r}, the space {list(choices)}", "Let one fit the other")
        return value

    def _between(self, name: str, low: float, high: float, kind: type) -> Any:
        value = self._value(name)
        if type(value).__name__ != kind.__name__:  # a boolean is no integer here, nor an integer a float
            raise BrokenPromise(
                f"a recipe has {name}={value!r}, the space asks for {kind.__name__}", "Let one fit the other"
            )
        if not low <= value <= high:
            raise BrokenPromise(
                f"a recipe has {name}={value!r}, the space goes from {low:g} to {high:g}", "Let one fit the other"
            )
        return value

    def _value(self, name: str) -> Any:
        self.names.add(name)
        if name not in self.recipe:
            raise BrokenPromise(f"a recipe has no {name!r}, which the space then asks for", "Let one fit the other")
        return self.recipe[name]


def _ordered(name: str, low: float, high: float, log: bool) -> None:
    if not low <= high or (log and low <= 0):
        scale = " on a log scale" if log else ""
        raise BrokenPromise(
            f"the space asks for {name} from {low!r} to {high!r}{scale}", "Keep it possible for small attack splits"
        )


def _some(name: str, choices: Sequence[Any]) -> None:
    if not choices:
        raise BrokenPromise(f"the space asks for {name} out of no choice", "Keep it possible for small attack splits")
