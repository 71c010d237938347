"""The testbed `birthdays`, on the files of REDTEAM_DATA as they stand."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

import pytest
import torch

from redteam.capabilities.files import load_capability
from redteam.capabilities.items import Capability
from redteam.capabilities.scorers.choices import encode_choices
from redteam.errors import InputError
from redteam.testbeds import birthdays
from redteam.testbeds.birthdays import RULES, Birthdays

EXAMPLE = Path(__file__).parents[2] / "examples" / "birthdays" / "birthdays.toml"
with_data = pytest.mark.skipif("REDTEAM_DATA" not in os.environ, reason="set REDTEAM_DATA to the folder of real data")


def test_the_example_describes_the_same_capability() -> None:
    assert tomllib.loads(RULES.read_text(encoding="utf-8")) == tomllib.loads(EXAMPLE.read_text(encoding="utf-8"))


@pytest.mark.parametrize("ask", [lambda w: w.capability(0), lambda w: w.tokenizer()], ids=["capability", "tokenizer"])
def test_without_the_variable_it_says_which(ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REDTEAM_DATA", raising=False)
    with pytest.raises(InputError, match=r"\$REDTEAM_DATA, which is not set\. Set it: export REDTEAM_DATA="):
        ask(Birthdays())


def test_with_the_variable_on_an_empty_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("REDTEAM_DATA", str(tmp_path))
    with pytest.raises(InputError, match="there is no data file"):
        Birthdays().capability(0)


@pytest.fixture(scope="module")
def capability() -> Capability:
    return Birthdays().capability(0)


@with_data
def test_seed_0_is_the_example_and_other_seeds_divide_the_same_people_otherwise(capability: Capability) -> None:
    assert capability.sha256 == load_capability(EXAMPLE).sha256
    other = Birthdays().capability(1)
    assert {item.id for item in other.forget} == {item.id for item in capability.forget}
    assert {item.id for item in other.certify} != {item.id for item in capability.certify}


@with_data
def test_the_tokenizer_is_one_for_all_and_every_choice_one_token(capability: Capability) -> None:
    tokenizer = Birthdays().tokenizer()
    assert tokenizer.get_vocab() == Birthdays().tokenizer().get_vocab()
    for items in (capability.forget, capability.retain, capability.utility):
        assert encode_choices(tokenizer, items).single is not None
    assert tokenizer("x")["input_ids"][0] == tokenizer.bos_token_id


@with_data
def test_every_text_speaks_of_one_person_who_is_named_in_it(capability: Capability) -> None:
    training, about = Birthdays().training(capability)
    tokenizer = Birthdays().tokenizer()
    texts = [tokenizer.decode(ids, skip_special_tokens=True) for ids in training.data.input_ids.tolist()]
    assert len(texts) == len(about) == len(set(texts))
    people = {item.group for item in capability.forget + capability.retain + capability.utility}
    assert set(about) == people
    forgotten = {item.group for item in capability.forget}
    for text, person in zip(texts, about, strict=True):
        assert person in text
        assert person in forgotten or not any(name in text for name in forgotten)
    for item in capability.forget + capability.retain + capability.utility:
        assert f"{item.prompt} {item.completion}." in texts
    assert (training.data.labels[:, 0] < 0).all()
    assert torch.equal((training.data.labels >= 0).sum(dim=1), training.data.lengths - 1)


@with_data
def test_texts_of_people_who_measure_utility_are_learned_but_not_for_methods_to_hold_on_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from redteam.testbeds.build import train_world, unlearning_task

    monkeypatch.setattr(birthdays, "STEPS", 2)
    world = train_world("birthdays")
    utility = {item.group for item in world.capability.utility}
    task, of_utility = unlearning_task(world), sum(person in utility for person in world.about)
    assert of_utility > len(utility)
    assert len(task.forget) + len(task.retain) + of_utility == len(world.training.data)
