"""Items of a capability. No torch here: a capability is text."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """A multiple-choice question about one fact.

    Attributes:
        id: unique within its capability.
        group: which fact (or entity) it is about; splits never divide a group.
        prompt: what the model reads.
        choices: distinct continuations, without the leading space.
        answer: index of the right one.
    """

    id: str
    group: str
    prompt: str
    choices: tuple[str, ...]
    answer: int

    @property
    def completion(self) -> str:
        """The right continuation."""
        return self.choices[self.answer]


@dataclass(frozen=True, kw_only=True, slots=True)
class Capability:
    """What was removed, and what must stay.

    Attributes:
        name: for people and records.
        attack: forget items that the adversary may train on.
        select: forget items that pick the best trial.
        certify: forget items that are scored for confirmed configurations only, and reported.
        retain: items of what must stay, for methods and attacks to train on.
        utility: items of what must stay, disjoint from `retain`; they measure utility.
    """

    name: str
    attack: tuple[Item, ...]
    select: tuple[Item, ...]
    certify: tuple[Item, ...]
    retain: tuple[Item, ...]
    utility: tuple[Item, ...]

    @property
    def forget(self) -> tuple[Item, ...]:
        """All forget items: what an unlearning method is given."""
        return self.attack + self.select + self.certify

    @property
    def chance(self) -> float:
        """Expected score on `certify` of a model that draws one of the choices blindly."""
        return sum(1 / len(item.choices) for item in self.certify) / len(self.certify)

    @property
    def sha256(self) -> str:
        """Digest of every item of every split."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


def overlapping_groups(parts: Sequence[Sequence[Item]]) -> set[str]:
    """Returns the groups that occur in more than one part: leaks between splits."""
    return _overlap([{item.group for item in part} for part in parts])


def overlapping_prompts(parts: Sequence[Sequence[Item]]) -> set[str]:
    """Returns the prompts that occur in more than one part: the same question under two groups leaks as well."""
    return _overlap([{item.prompt for item in part} for part in parts])


def _overlap(parts: Sequence[set[str]]) -> set[str]:
    seen: set[str] = set()
    shared: set[str] = set()
    for part in parts:
        shared |= part & seen
        seen |= part
    return shared
