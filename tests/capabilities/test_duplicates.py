from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import make_item

from redteam.capabilities.duplicates import normal_form, together
from redteam.capabilities.items import Item


def asked(group: str, prompt: str) -> Item:
    item = make_item(0, group=group)
    return Item(id=f"{group}:{prompt}", group=group, prompt=prompt, choices=item.choices, answer=0)


def groups(*pairs: tuple[str, str]) -> list[str]:
    return [item.group for item in together([asked(*pair) for pair in pairs])]


@pytest.mark.parametrize(
    "other",
    [
        "when was Ann born",
        "When was  Ann born?",
        " When was Ann\nborn ?! ",
        "WHEN WAS ANN BORN:",
        "“When was Ann born?”",
    ],
)
def test_ways_to_write_one_question(other: str) -> None:
    assert normal_form(other) == normal_form("When was Ann born?")


def test_accents_may_be_encoded_in_two_ways() -> None:
    assert normal_form(unicodedata.normalize("NFD", "Zoë?")) == normal_form(unicodedata.normalize("NFC", "zoë"))


@pytest.mark.parametrize(
    ("left", "right"), [("C++?", "C?"), ("2+2=", "2-2="), ("x²", "x2"), ("Zoë", "Zoe"), ("a b", "ab"), ("?", "!")]
)
def test_what_is_another_question(left: str, right: str) -> None:
    assert normal_form(left) != normal_form(right)


@given(st.text())
def test_a_normal_form_is_its_own(text: str) -> None:
    once = normal_form(text)
    assert normal_form(once) == once
    assert once or not text.strip()


def test_facts_that_share_a_question_are_one() -> None:
    found = groups(("a", "one?"), ("b", "two"), ("c", "One"), ("d", "three"), ("c", "four"), ("e", "FOUR."))
    assert found == ["a", "b", "a", "d", "a", "a"]


def test_chains_are_followed_in_any_order() -> None:
    """e and c share one question, c and a another: all three are one, whichever pair is seen first."""
    pairs = [("e", "x"), ("c", "x!"), ("c", "y"), ("a", "y?"), ("z", "z")]
    for turn in range(len(pairs)):
        turned = pairs[turn:] + pairs[:turn]
        assert groups(*turned) == ["z" if group == "z" else "a" for group, _ in turned]


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from("uvwxyz")), max_size=30))
def test_no_question_is_left_in_two_groups(pairs: list[tuple[str, str]]) -> None:
    items = together([asked(*pair) for pair in pairs])
    owners: dict[str, set[str]] = {}
    for item in items:
        owners.setdefault(item.prompt, set()).add(item.group)
    assert all(len(groups) == 1 for groups in owners.values())
    assert [item.prompt for item in items] == [prompt for _, prompt in pairs]
