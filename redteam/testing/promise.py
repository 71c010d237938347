"""What is raised when an attack, or a scorer, does not do what every one promises."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from redteam.errors import one_line

T = TypeVar("T")


class BrokenPromise(AssertionError):
    """One promise does not hold.

    Attributes:
        found: what was seen, as a clause.
        remedy: what to do about it, as a sentence in the imperative.
    """

    def __init__(self, found: str, remedy: str) -> None:
        self.found, self.remedy = one_line(found), one_line(remedy)
        super().__init__(f"{self.found}. {self.remedy}")


class BrokenPromises(AssertionError):
    """Promises that an attack or a scorer does not keep.

    Attributes:
        broken: name of a promise -> how it is broken.
    """

    def __init__(self, name: str, broken: Mapping[str, BrokenPromise], kind: str = "an attack") -> None:
        self.broken = dict(broken)
        lines = [f"- {name}: {error}" for name, error in broken.items()]
        super().__init__("\n".join([f"{name} breaks {len(lines)} of the promises of {kind}:", *lines]))


def answer(what: str, ask: Callable[..., T], *given: Any) -> T:
    """Returns what an attack or a scorer answers.

    Args:
        what: is asked, in a word: "space", "recipes".
        ask: is called.
        given: with these.

    Raises:
        BrokenPromise: it raised.
    """
    try:
        return ask(*given)
    except BrokenPromise:
        raise
    except Exception as error:  # it is anybody's code
        raise BrokenPromise(f"{what} raised {type(error).__name__}: {error}", "Correct it") from error
