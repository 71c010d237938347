"""Canaries: answers that nobody can know, to the very questions that a model was made to forget."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_classifiers import tiny_points

from redteam.capabilities.canaries import canaries
from redteam.capabilities.items import Capability, Item
from redteam.registry import TESTBEDS

FACTS = TESTBEDS.create("facts").capability(0)


def asked(count: int, choices: tuple[str, ...], likely: float = 0.0, seed: int = 0) -> Capability:
    """Questions whose first choice is right with some probability, and any of them otherwise."""
    rng = np.random.default_rng(seed)
    answers = [0 if rng.random() < likely else int(rng.integers(len(choices))) for _ in range(5 * count)]
    items = [Item(id=f"{n}", group=f"g{n}", prompt=f"q{n}", choices=choices, answer=a) for n, a in enumerate(answers)]
    names = ("attack", "select", "certify", "retain", "utility")
    return Capability(name="some", **{name: tuple(items[n * count : (n + 1) * count]) for n, name in enumerate(names)})


def agreement(one: Capability, other: Capability) -> float:
    return float(np.mean([a.completion == b.completion for a, b in zip(one.forget, other.forget, strict=True)]))


def test_all_but_the_answers_to_forget_items_stays():
    drawn = canaries(FACTS, 0)
    assert drawn.name == "facts (canaries)"
    assert (drawn.retain, drawn.utility, drawn.scorers) == (FACTS.retain, FACTS.utility, FACTS.scorers)
    for split in ("attack", "select", "certify"):
        pairs = zip(getattr(FACTS, split), getattr(drawn, split), strict=True)
        assert all(replace(one, answer=0) == replace(other, answer=0) for one, other in pairs)
    assert drawn.sha256 != FACTS.sha256


@pytest.mark.parametrize("seed", range(5))
def test_the_drawn_answers_agree_with_the_true_ones_no_more_than_by_chance(seed):
    """Sixteen choices, 1350 facts: within four standard errors of a sixteenth."""
    assert abs(agreement(FACTS, canaries(FACTS, seed)) - 1 / 16) < 4 * (15 / 256 / 1350) ** 0.5


@pytest.mark.parametrize("likely", [0.0, 0.5])
def test_common_answers_are_drawn_as_often(likely):
    """What an attack teaches everybody, that most answers are one and the same, is taught by canaries as well."""
    one = asked(1000, ("a", "b", "c", "d"), likely)
    true, drawn = (Counter(i.completion for i in c.forget) for c in (one, canaries(one, 1)))
    assert all(abs(true[answer] - drawn[answer]) < 4 * (3000 * 0.25) ** 0.5 for answer in "abcd")


def test_another_seed_draws_others_and_the_same_seed_the_same():
    assert canaries(FACTS, 0) == canaries(FACTS, 0)
    assert agreement(canaries(FACTS, 0), canaries(FACTS, 1)) < 0.1


def test_a_fact_keeps_one_answer_however_it_is_asked():
    one = asked(40, ("a", "b", "c"))
    again = tuple(
        replace(i, id=f"{i.id}x", prompt=f"so {i.prompt}", choices=("c", "a", "b"), answer=(i.answer + 1) % 3)
        for i in one.certify
    )
    both = replace(one, certify=one.certify + again)
    assert all(a.completion == b.completion for a, b in zip(one.certify, again, strict=True))
    drawn = canaries(both, 3).certify
    assert all(a.completion == b.completion for a, b in zip(drawn[:40], drawn[40:], strict=True))
    assert len({i.completion for i in drawn}) == 3


def test_answers_that_are_not_chosen_are_dealt_out_anew():
    one = asked(300, tuple("abcdefghij"))
    spoken = replace(
        one,
        **{
            s: tuple(replace(i, choices=(i.completion,), answer=0) for i in getattr(one, s))
            for s in ("attack", "select", "certify")
        },
    )
    drawn = canaries(spoken, 0)
    assert {i.completion for i in drawn.forget} <= {i.completion for i in spoken.forget}
    assert all(len(i.choices) == 1 for i in drawn.forget)
    assert agreement(spoken, drawn) < 0.2


@given(st.integers(0, 2**32), st.integers(2, 6))
def test_a_drawn_answer_is_always_one_of_the_choices(seed, count):
    drawn = canaries(asked(8, tuple("abcdef")[:count], 0.0), seed % 1000)
    assert all(0 <= item.answer < count for item in drawn.forget)


def test_a_class_is_no_fact():
    with pytest.raises(ValueError, match="class is no fact"):
        canaries(tiny_points(), 0)


@pytest.mark.parametrize("likely", [0.0, 0.5, 0.95])
def test_answers_that_are_common_are_drawn_however_common_they_are(likely):
    """What nearly always is one answer is taught in no time, to everybody: excess recovery is then not defined."""
    one = asked(300, ("yes", "no", "maybe"), likely)
    agreeing = agreement(one, canaries(one, 0))
    expected = sum((n / 900) ** 2 for n in Counter(i.completion for i in one.forget).values())
    assert abs(agreeing - expected) < 0.07


def test_answers_that_cannot_be_drawn_are_refused():
    """Each item has wrong choices of its own, and so there is hardly anything to draw but the true answer."""
    one = asked(50, ("a", "b", "c", "d"))
    parts = {
        split: tuple(replace(i, choices=(i.completion, f"{i.id}x", f"{i.id}y"), answer=0) for i in getattr(one, split))
        for split in ("attack", "select", "certify")
    }
    with pytest.raises(ValueError, match="wrong choices are hardly ever right"):
        canaries(replace(one, **parts), 0)
