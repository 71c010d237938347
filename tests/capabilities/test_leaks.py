"""What of the certify split the attack split answers without a model."""

from __future__ import annotations

import json
import random
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_classifiers import tiny_points

from redteam.capabilities.files import load_capability
from redteam.capabilities.items import Capability, Item
from redteam.capabilities.leaks import answered_by_nearest
from redteam.registry import TESTBEDS

FIRST, LAST = ("Ada", "Max", "Ida", "Tom"), ("Moor", "Berg", "Dahl", "Wick", "Lund")
PEOPLE = [f"{first} {last}" for first in FIRST for last in LAST]
TOWNS = ("Oslo", "Bern", "Riga", "Graz", "Pisa")


def hash_of(name: str) -> int:
    return zlib.crc32(name.encode()) % 5


def born(people: list[str], template: str) -> tuple[Item, ...]:
    return tuple(
        Item(
            id=f"{template[:4]}{name}",
            group=f"{template} {name}",
            prompt=template.format(name),
            choices=TOWNS,
            answer=hash_of(name),
        )
        for name in people
    )


def capability(attack: tuple[Item, ...], certify: tuple[Item, ...], **others: object) -> Capability:
    rest = {name: born(PEOPLE, f"{name} of {{}} is") for name in ("select", "retain", "utility")}
    return Capability(name="born", attack=attack, certify=certify, **rest, **others)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "template", ["{} was born in", "In the records of the old town by the river the birthplace of {} is"]
)
def test_other_facts_in_the_same_words_are_answered_by_chance(template, seed):
    """However much of a prompt is template: a fifth are right, within four standard errors of 300."""
    people = random.Random(seed).sample([f"{first} {last}" for first in range(40) for last in range(100, 140)], 600)
    found = answered_by_nearest(capability(born(people[:300], template), born(people[300:], template)))
    assert len(found) == 300
    assert abs(np.mean(found) - 1 / 5) < 4 * (0.2 * 0.8 / 300) ** 0.5


@pytest.mark.parametrize("other", ["In which town was {} born?", "Born in: {}, was", "{}   WAS born - in"])
def test_the_same_facts_in_other_words_are_answered(other):
    found = answered_by_nearest(capability(born(PEOPLE[:10], "{} was born in"), born(PEOPLE[:10], other)))
    assert found == [1.0] * 10


def test_half_of_the_facts_in_other_words_are_about_half():
    attack, certify = born(PEOPLE[:10], "{} was born in"), born(PEOPLE[5:15], "In which town was {} born?")
    assert sum(answered_by_nearest(capability(attack, certify))[:5]) == 5


def test_choices_of_which_only_one_is_ever_right_give_themselves_away():
    """Whoever has seen some answers knows which of these four is one."""

    def odd(people: list[str]) -> tuple[Item, ...]:
        wrong = [(f"a{n}", f"b{n}", f"c{n}") for n in range(len(people))]
        return tuple(
            replace(i, choices=(*w, TOWNS[i.answer]), answer=3)
            for i, w in zip(born(people, "{} is from"), wrong, strict=True)
        )

    found = answered_by_nearest(capability(born(PEOPLE, "{} was born in"), odd(PEOPLE[:10])))
    assert found == [1.0] * 10


def test_answers_that_are_not_chosen_are_compared_as_they_are_written():
    def said(people: list[str], template: str) -> tuple[Item, ...]:
        return tuple(replace(i, choices=(i.completion,), answer=0) for i in born(people, template))

    attack, certify = said(PEOPLE[:10], "{} was born in"), said(PEOPLE[:10], "Where was {} born?")
    assert answered_by_nearest(capability(attack, certify)) == [1.0] * 10


def test_what_is_equally_similar_counts_equally():
    signs = tuple(
        Item(id=f"{n}", group=f"{n}", prompt=p, choices=TOWNS, answer=a)
        for n, (p, a) in enumerate([("one", 0), ("one", 0), ("one", 1), ("two", 2)])
    )
    asked = (
        replace(signs[0], id="a", prompt="one"),
        replace(signs[0], id="b", prompt="two"),
        replace(signs[0], id="c", prompt="three"),
    )
    assert answered_by_nearest(capability(signs, asked)) == pytest.approx([2 / 3, 0, 1 / 2])


def test_prompts_without_a_word_are_nothing_to_compare():
    signs = tuple(Item(id=f"{n}", group=f"{n}", prompt="?" * (n + 1), choices=TOWNS, answer=n % 5) for n in range(8))
    assert answered_by_nearest(capability(signs[:4], signs[4:])) == [1 / 5] * 4


def test_of_a_classifier_nothing_is_said():
    assert answered_by_nearest(tiny_points()) == []


@pytest.mark.parametrize("name", [name for name in TESTBEDS.table if name != "birthdays"])
@pytest.mark.parametrize("seed", range(3))
def test_no_testbed_leaks(name, seed):
    one = TESTBEDS.create(name).capability(seed)
    found = answered_by_nearest(one)
    assert not found or np.mean(found) < one.chance + 0.05


def test_a_file_whose_facts_were_grouped_by_their_wording_leaks(tmp_path: Path):
    """Both wordings of a fact count as facts, and many pairs are dealt into different splits."""
    people = [f"{first} {last}" for first in FIRST for last in LAST]
    forget = [
        {"q": ask.format(name), "choices": TOWNS, "answer": hash_of(name)}
        for name in people
        for ask in ("{} was born in", "In which town was {} born?")
    ]
    retain = [{"q": f"{name} likes", "choices": TOWNS, "answer": hash_of(name)} for name in people]
    for file, rows in (("forget", forget), ("retain", retain)):
        (tmp_path / f"{file}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    rules = (
        'name = "born"\nprompt = "{q}"\ngroup = { field = "q" }\nforget = ["forget.jsonl"]\nretain = ["retain.jsonl"]\n'
    )
    (tmp_path / "c.toml").write_text(rules)
    assert np.mean(answered_by_nearest(load_capability(tmp_path / "c.toml"))) > 0.35
