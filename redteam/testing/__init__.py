"""What every attack and every scorer promises, as tests for one that is not ours.

With pytest, all promises at once:

    from redteam.testing import check_attack
    from my_package import MyAttack

    def test_my_attack():
        check_attack(MyAttack())

or every promise as a test of its own:

    @pytest.mark.parametrize("promise", PROMISES)
    def test_my_attack(promise):
        PROMISES[promise](MyAttack())

Without pytest the same call serves in any script: it raises `BrokenPromises`, an `AssertionError`, with one line for
each promise that does not hold and what to do about it. Nothing is downloaded: attacks run on a language model and on
a classifier of a few thousand random weights, for seconds.

A scorer is checked the same way, by `check_scorer(MyScorer())` or by each of `SCORER_PROMISES`.

An attack is exercised with the first of its recipes, or with the parameters it is given here: a few steps that change a
tiny model do. `Exercise` says the rest.
"""

from redteam.testing.check import PROMISES, SCORER_PROMISES, check_attack, check_scorer
from redteam.testing.exercise import Exercise
from redteam.testing.promise import BrokenPromise, BrokenPromises

__all__ = [
    "PROMISES",
    "SCORER_PROMISES",
    "BrokenPromise",
    "BrokenPromises",
    "Exercise",
    "check_attack",
    "check_scorer",
]
