"""Whether what is said depends on the question: planted tables, and models that know, hide or say nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from tiny_classifiers import tiny_classifier_target, tiny_points
from tiny_models import make_item, tiny_capability, tiny_target
from torch import Tensor

from redteam.capabilities.items import Item
from redteam.registry import SCORERS
from redteam.setting import open_setting
from redteam.suite.records import before_event
from redteam.suite.told_apart import mutual_information

CHOICES = ("w0", "w1", "w2", "w3")
ALIKE = tuple(make_item(number, choices=CHOICES) for number in range(40))
TURNED = tuple(make_item(number, choices=CHOICES[number % 4 :] + CHOICES[: number % 4]) for number in range(40))
APART = tuple(make_item(number, choices=tuple(f"{number} {choice}" for choice in range(4))) for number in range(40))


def sure_of(texts: Sequence[str], items: Sequence[Item], margin: float = 50.0) -> Tensor:
    places = [item.choices.index(text) for text, item in zip(texts, items, strict=True)]
    return torch.nn.functional.one_hot(torch.tensor(places), 4).float() * margin


ROUND = [CHOICES[number % 4] for number in range(40)]
PLANTED = {
    "nothing": (torch.zeros(40, 4), ALIKE, 0.0),
    "another of each": (sure_of(ROUND, ALIKE), ALIKE, 1.0),
    "another of each, in any order": (sure_of(ROUND, TURNED), TURNED, 1.0),
    "the same of all": (sure_of(["w1"] * 40, ALIKE), ALIKE, 0.0),
    "the same of all, in any order": (sure_of(["w1"] * 40, TURNED), TURNED, 0.0),
    "one of two": (sure_of([CHOICES[number % 2] for number in range(40)], ALIKE), ALIKE, 0.5),
    "half sure": (
        sure_of(ROUND, ALIKE, math.log(3)),  # odds of three to one against each: H = (log 2 + log 6) / 2
        ALIKE,
        1 - (math.log(2) + math.log(6)) / 2 / math.log(4),
    ),
    "the first place of all": (sure_of([item.choices[0] for item in APART], APART), APART, 0.0),
    "another place of each": (sure_of([item.choices[n % 4] for n, item in enumerate(APART)], APART), APART, 1.0),
}


@pytest.mark.parametrize("name", PLANTED)
def test_what_depends_on_the_question(name: str) -> None:
    table, items, expected = PLANTED[name]
    assert mutual_information(table, items) == pytest.approx(expected, abs=1e-6)


def test_items_may_have_different_numbers_of_choices() -> None:
    items = tuple(replace(item, choices=CHOICES[: 2 + 2 * (row % 2)], answer=0) for row, item in enumerate(ALIKE))
    places = torch.tensor([row // 2 % len(item.choices) for row, item in enumerate(items)])
    table = torch.nn.functional.one_hot(places, 4).float() * 50
    table[::2, 2:] = -torch.inf
    assert mutual_information(table, items) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("target", [tiny_target, tiny_classifier_target], ids=["language", "classifier"])
def test_it_is_recorded_of_what_compares_choices(target) -> None:
    capability = tiny_capability() if target is tiny_target else tiny_points()
    setting = open_setting(target(), capability)
    event, _ = before_event("target", setting)
    assert event.told_apart == mutual_information(setting.says, capability.select)
    assert 0 < event.told_apart < 1


def test_of_another_scorer_nothing_is_recorded() -> None:
    capability = replace(tiny_capability(), scorers=(SCORERS.create("exact"),))
    event, _ = before_event("target", open_setting(tiny_target(), capability))
    assert event.told_apart is None
    assert "told_apart" not in event.as_row()
