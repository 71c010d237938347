"""How scoring fails: by the model that is scored, or by a scorer of somebody else's. No torch here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from redteam.errors import InputError
from redteam.registry import SCORERS


class NotFinite(Exception):
    """The model's outputs are not finite, so there is nothing to score."""


class UnusableScores(ValueError):
    """A scorer returned what is no score; the message says what is wrong with it."""


@contextmanager
def answerable(scorer: Any) -> Iterator[None]:
    """Refuses a scorer of somebody else's that fails: it is input, as a file is.

    Args:
        scorer: whose code is run while this is open.

    Raises:
        InputError: what it raised, in one line.
    """
    try:
        yield
    except (InputError, NotFinite):
        raise
    except (Exception, SystemExit) as error:
        if SCORERS.ships(scorer):
            raise
        raise InputError(
            f"the scorer {scorer.name!r} fails ({type(error).__name__}: {error})",
            "Correct it, and hold it to redteam.testing.check_scorer",
        ) from error
