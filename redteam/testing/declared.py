"""What an attack says of itself: what lists it, stores it and decides whether it applies."""

from __future__ import annotations

import re
from typing import Any

from redteam.attacks.contract import Access, Attack, step_limit
from redteam.testing.exercise import Exercise
from redteam.testing.promise import BrokenPromise, answer
from redteam.testing.worlds import KINDS

METHODS = ("space", "recipes", "run")


def says_what_it_is(attack: Attack, exercise: Exercise | None = None) -> None:
    """It has the attributes and methods of the contract, each of its type."""
    for name in METHODS:
        if not callable(getattr(attack, name, None)):
            raise BrokenPromise(f"it has no method {name!r}", "See redteam.attacks.contract.Attack")
    name = _there(attack, "name")
    if not (isinstance(name, str) and re.fullmatch(r"[a-z0-9][a-z0-9._-]*", name)):
        raise BrokenPromise(f"its name is {name!r}", "Use lower-case letters, digits and hyphens")
    version = _there(attack, "version")
    if type(version) is not int or version < 1:
        raise BrokenPromise(f"its version is {version!r}", "Use an integer from 1, and raise it with every change")
    for fact in ("goal", "paper"):
        text = _there(attack, fact)
        if not (isinstance(text, str) and text and text == text.strip() and "\n" not in text):
            raise BrokenPromise(f"its {fact} is {text!r}", "Say it on one line")
    access = _there(attack, "access")
    if not isinstance(access, Access):
        raise BrokenPromise(f"its access is {access!r}", "Use a member of redteam.attacks.contract.Access")
    _kinds(attack)
    limit = answer("step_limit", step_limit, attack)
    if not limit > 0:
        raise BrokenPromise(f"its step_limit is {limit:g}", "Say how many seconds a step may take, or leave it out")


def _kinds(attack: Attack) -> None:
    said = getattr(attack, "kinds", ", ".join(KINDS))
    allowed = (*KINDS, ", ".join(KINDS))
    if said not in allowed:
        raise BrokenPromise(f"its kinds are {said!r}", f"Use one of {', '.join(map(repr, allowed))}")


def _there(attack: Attack, name: str) -> Any:
    if not hasattr(attack, name):
        raise BrokenPromise(f"it has no {name!r}", f"Give the class an attribute `{name}`")
    return getattr(attack, name)
