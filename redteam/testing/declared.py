"""What an attack or a scorer says of itself: what lists it, stores it and decides whether it applies."""

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
    facts_are_there(attack)
    access = fact_of(attack, "access")
    if not isinstance(access, Access):
        raise BrokenPromise(f"its access is {access!r}", "Use a member of redteam.attacks.contract.Access")
    kinds_are_known(getattr(attack, "kinds", ", ".join(KINDS)))
    limit = answer("step_limit", step_limit, attack)
    if not limit > 0:
        raise BrokenPromise(f"its step_limit is {limit:g}", "Say how many seconds a step may take, or leave it out")


def facts_are_there(plugin: Any) -> None:
    """It has a name, a version, a goal and a paper, each of its form.

    Raises:
        BrokenPromise: one is not.
    """
    name = fact_of(plugin, "name")
    if not (isinstance(name, str) and re.fullmatch(r"[a-z0-9][a-z0-9._-]*", name)):
        raise BrokenPromise(f"its name is {name!r}", "Use lower-case letters, digits and hyphens")
    version = fact_of(plugin, "version")
    if type(version) is not int or version < 1:
        raise BrokenPromise(f"its version is {version!r}", "Use an integer from 1, and raise it with every change")
    for fact in ("goal", "paper"):
        text = fact_of(plugin, fact)
        if not (isinstance(text, str) and text and text == text.strip() and "\n" not in text):
            raise BrokenPromise(f"its {fact} is {text!r}", "Say it on one line")


def kinds_are_known(said: Any) -> None:
    """What it works on are kinds of models.

    Raises:
        BrokenPromise: they are not.
    """
    allowed = (*KINDS, ", ".join(KINDS))
    if said not in allowed:
        raise BrokenPromise(f"its kinds are {said!r}", f"Use one of {', '.join(map(repr, allowed))}")


def fact_of(plugin: Any, name: str) -> Any:
    """Returns a class attribute.

    Raises:
        BrokenPromise: there is none.
    """
    if not hasattr(plugin, name):
        raise BrokenPromise(f"it has no {name!r}", f"Give the class an attribute `{name}`")
    return getattr(plugin, name)
