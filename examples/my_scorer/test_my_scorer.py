"""The scorer keeps the promises of every scorer, and one of its own. Run it with `pytest examples/my_scorer`."""

from __future__ import annotations

import pytest
from my_scorer import RougeL, recall

from redteam.testing import SCORER_PROMISES, check_scorer


def test_all_promises() -> None:
    """One call, one report of all that does not hold."""
    check_scorer(RougeL())


@pytest.mark.parametrize("promise", SCORER_PROMISES)
def test_each_promise(promise: str) -> None:
    """The same, one test for each promise."""
    SCORER_PROMISES[promise](RougeL())


@pytest.mark.parametrize(
    ("said", "right", "expected"),
    [
        ("the red fox sleeps", "red fox", 1.0),
        ("fox red", "red fox", 1 / 2),  # one of the two is in order
        ("a dog", "red fox", 0.0),
        ("red", "red red", 1 / 2),
        ("", "...", 1.0),  # nothing is wanted, and nothing was said
    ],
)
def test_words_count_in_order(said: str, right: str, expected: float) -> None:
    """What is special about this scorer."""
    assert recall(said, right) == expected
