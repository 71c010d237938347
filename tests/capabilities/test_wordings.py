"""Further wordings of a capability: read from files, carried by items, refused where they cannot be asked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_capability_files import TOML, people, refusal, write
from tiny_classifiers import tiny_points
from tiny_models import tiny_capability
from typer.testing import CliRunner

from redteam.capabilities.canaries import canaries
from redteam.capabilities.duplicates import refuse_alike
from redteam.capabilities.files import load_capability
from redteam.capabilities.items import SPLITS, Capability, overlapping_prompts
from redteam.cli import app
from redteam.errors import InputError
from redteam.evidence import keys

__all__ = ["write"]  # a fixture
TWO = 'wordings = ["Of {group}: {question}?", "{group} {question}"]\n'


def worded(lines: str) -> str:
    return TOML.replace("group = {", f"{lines}group = {{")


def with_wordings(capability: Capability, *ways: Any) -> Capability:
    parts = {
        split: tuple(replace(i, wordings=tuple(way(i.prompt) for way in ways)) for i in getattr(capability, split))
        for split in SPLITS
    }
    return replace(capability, **parts)


def test_every_item_is_asked_in_every_wording(write) -> None:
    plain, capability = load_capability(write()), load_capability(write(toml=worded(TWO)))
    assert capability.further_wordings == 2
    for split in SPLITS:
        for item, same in zip(getattr(capability, split), getattr(plain, split), strict=True):
            assert item.wordings == (f"Of {item.group}: when?", f"{item.group} when")
            assert replace(item, wordings=()) == same
            (first,) = (one for one in getattr(capability.worded(1), split) if one.id == item.id)
            assert first == replace(item, prompt=item.wordings[0], wordings=())


def test_the_digest_is_another_with_wordings_and_the_same_without(write) -> None:
    plain = load_capability(write()).sha256
    assert load_capability(write(toml=worded("wordings = []\n"))).sha256 == plain
    assert load_capability(write(toml=worded(TWO))).sha256 != plain


def test_options_by_letter_are_listed_in_every_wording(write) -> None:
    toml = worded('wordings = ["{options}\\nWhich is it, {group}?"]\n').replace(
        'prompt = "{question} {group}"', 'prompt = "{group}\\n{options}"'
    )
    item = load_capability(write(toml=toml)).certify[0]
    options = item.prompt.removeprefix(f"{item.group}\n")
    assert options.startswith("A. ")
    assert item.wordings == (f"{options}\nWhich is it, {item.group}?",)


@pytest.mark.parametrize(
    ("wordings", "says"),
    [
        ('["When was he born?"]', "wording 1 asks the same about"),
        ('["Of {group}: {question}?", "{question}"]', "wording 2 asks the same about"),
        ('["{question} {group}"]', "wording 1 asks what the prompt or another wording asks"),
        ('["Of {group}", "Of {group}"]', "wording 2 asks what the prompt or another wording asks"),
        ('["{name} when"]', "the wording template fails (KeyError('name'))"),
        ('["{group", "x"]', "the wording template fails"),
        ('[""]', "the wording is empty"),
        ('["{group:9999999}"]', "no field can be formatted as '9999999'"),
        ('["{group}\\n{options}"]', "do not both list {options}"),
        ('"Of {group}"', "wordings"),
        ("[1]", "wordings"),
    ],
)
def test_what_cannot_be_asked_is_refused(write, wordings: str, says: str) -> None:
    assert says in refusal(write(toml=worded(f"wordings = {wordings}\n")))


def test_a_refused_wording_ends_the_command_with_its_code(write, untrained: Path) -> None:
    rules = write(toml=worded('wordings = ["Who?"]\n'))
    done = CliRunner().invoke(app, ["attack", str(untrained), "--capability", str(rules)])
    assert done.exit_code == 2
    assert "wording 1 asks the same about" in " ".join(done.output.split())


@pytest.mark.parametrize("sources", ['["lm_eval:a"]', '["lm_eval:a", "forget.jsonl"]'])
def test_tasks_have_no_further_wordings(write, sources: str) -> None:
    toml = worded(TWO).replace('["forget.jsonl"]', sources).replace('["retain.jsonl"]', '["lm_eval:b"]')
    rows = 'prompt = "{question} {group}"\n', 'group = { field = "person" }\n'
    alone = toml.replace(rows[0], "").replace(rows[1], "")
    assert "wordings" in refusal(write(toml=toml if "jsonl" in sources else alone))


def test_two_phrasings_of_one_fact_may_become_one(write) -> None:
    rows = [*people("f", 20), *({**row, "question": "what day"} for row in people("f", 20))]
    capability = load_capability(write(rows, toml=worded('wordings = ["Born: {group}"]\n')))
    assert capability.further_wordings == 1


def test_facts_of_one_person_are_told_apart(write) -> None:
    rows = [*people("f", 20), *({**row, "question": "where", "answer": 2 - row["answer"]} for row in people("f", 20))]
    assert "wording 1 asks the same about" in refusal(write(rows, toml=worded('wordings = ["Born: {group}"]\n')))


# From Python.


def test_canaries_are_asked_in_the_same_wordings() -> None:
    drawn = canaries(with_wordings(tiny_capability(), lambda prompt: f"w9 {prompt}"), seed=0)
    assert all(item.wordings == (f"w9 {item.prompt}",) for item in drawn.forget)


def test_all_forget_items_have_as_many_and_images_none() -> None:
    capability = tiny_capability()
    some = (replace(capability.attack[0], wordings=("w9",)), *capability.attack[1:])
    with pytest.raises(ValueError, match=r"forget items have \[0, 1\] further wordings"):
        replace(capability, attack=some)
    with pytest.raises(ValueError, match="images none"):
        with_wordings(tiny_points(), lambda prompt: f"another {prompt}")


def test_wordings_from_python_are_held_to_the_same() -> None:
    refuse_alike(with_wordings(tiny_capability(), lambda prompt: f"w9 {prompt}"))
    for way in (lambda prompt: prompt, lambda prompt: "w9"):
        with pytest.raises(InputError):
            refuse_alike(with_wordings(tiny_capability(), way))


def test_a_wording_that_another_split_asks_by_its_prompt_is_a_leak() -> None:
    capability = tiny_capability()
    shared = capability.attack[0].prompt
    certify = (replace(capability.certify[0], wordings=(shared,)), *capability.certify[1:])
    assert overlapping_prompts((capability.attack, certify)) == {shared}


def test_names_of_scores_say_which_wording_they_are_of() -> None:
    name = keys.certify(keys.wording(2))
    assert name == "certify:wording 2"
    assert (keys.split_of(name), keys.wording_of(name)) == ("certify", 2)
    assert [keys.wording_of(other) for other in ("certify", "certify:f1", "select")] == [None] * 3
    assert keys.worded("means", 1) == "means (wording 1)"
