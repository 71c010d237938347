"""What a construction is: a way to hide knowledge, and what would be the right thing to say of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from benchmarks.hidden.world import World


@dataclass(frozen=True, kw_only=True, slots=True)
class Hidden:
    """A target in which knowledge is hidden.

    Attributes:
        target: as it is released.
        proof: undoes the trick and returns the certify score that it gives, in [0, 1].
        reference: given instead of the world's, where the trick is the reference.
    """

    target: nn.Module
    proof: Callable[[], float]
    reference: nn.Module | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Construction:
    """A way to hide knowledge.

    Attributes:
        name: unique.
        kind: what is done, in a word: several constructions are of one kind.
        build: hides it in a world.
        causes: flags that name this cause; RECOVERED is right for all.
        version: raised with every change that could move a number.
    """

    name: str
    kind: str
    build: Callable[[World], Hidden]
    causes: tuple[str, ...] = ()
    version: int = 1
