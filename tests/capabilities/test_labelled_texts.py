"""Capabilities of classifiers of text: rows, their classes, and what is wrong with them."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from tiny_texts import CLASSES, text_rows, write_texts

from redteam.capabilities.files import load_capability
from redteam.capabilities.items import Capability
from redteam.errors import InputError


def loaded(folder: Path, rows: list[dict[str, Any]] | None = None, /, **rules: Any) -> Capability:
    return load_capability(write_texts(folder, rows, **rules))


def refusal(folder: Path, rows: list[dict[str, Any]] | None = None, /, **rules: Any) -> str:
    with pytest.raises(InputError) as caught:
        loaded(folder, rows, **rules)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def some(labels: list[Any]) -> list[dict[str, Any]]:
    return [{"comment": f"text {number}", "class": label} for number, label in enumerate(labels)]


def test_every_split_shows_what_it_should(tmp_path: Path) -> None:
    rows = text_rows()
    found = loaded(tmp_path, rows)
    assert found.kind == "classifier"
    assert found.inputs is None
    assert found.texts is not None
    assert found.texts.by_name
    assert [len(part) for part in (found.attack, found.select, found.certify)] == [20, 10, 20]
    assert {item.completion for item in found.forget} == {"threat"}
    assert (
        {item.completion for item in found.retain}
        == {item.completion for item in found.utility}
        == set(CLASSES) - {"threat"}
    )
    items = [item for part in (found.forget, found.retain, found.utility) for item in part]
    assert sorted(item.row for item in items) == list(range(200)) == list(range(len(found.texts.rows)))
    for item in items:
        line = int(item.id.removeprefix("rows.jsonl:"))
        assert found.texts.rows[item.row] == rows[line - 1]["comment"]
        assert item.completion == rows[line - 1]["class"]
    assert found.chance == 1 / 4


def test_the_same_file_gives_the_same_capability_and_another_seed_another(tmp_path: Path) -> None:
    assert loaded(tmp_path).sha256 == loaded(tmp_path).sha256 != loaded(tmp_path, seed=1).sha256


def test_csv_and_numbers(tmp_path: Path) -> None:
    """In CSV all is text: numbers, and here a text over two lines."""
    write_texts(tmp_path)
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, ["comment", "class"])
        table.writeheader()
        for row in text_rows():
            number = CLASSES.index(row["class"])
            table.writerow({"comment": row["comment"] + "\nsecond line", "class": f" {number} "})
    rules = tmp_path / "capability.toml"
    rules.write_text(rules.read_text().replace("rows.jsonl", "rows.csv").replace('"threat"', "2"))
    found = load_capability(rules)
    assert found.texts is not None
    assert not found.texts.by_name
    assert found.certify[0].choices == ("0", "1", "2", "3")
    assert {item.answer for item in found.forget} == {2}
    assert all(text.endswith("\nsecond line") for text in found.texts.rows)


@pytest.mark.parametrize(
    ("labels", "rules", "choices", "answer", "by_name"),
    [
        (["b", "a"], {"forget": ["b"]}, ("a", "b"), 1, True),
        ([1, 0], {"forget": [1]}, ("0", "1"), 1, False),
        ([1, 0], {"forget": ["1"]}, ("0", "1"), 1, False),
        ([True, False], {"forget": [1]}, ("0", "1"), 1, False),
        ([1, 0], {"forget": ["y"], "classes": ["x", "y"]}, ("x", "y"), 1, False),
        (["y", "x"], {"forget": [1], "classes": ["x", "y", "z"]}, ("x", "y", "z"), 1, False),
        (["1", "0"], {"forget": ["1"], "classes": ["1", "0"]}, ("1", "0"), 0, False),  # names that look like numbers
        ([3, 0], {"forget": [3], "classes": 5}, ("0", "1", "2", "3", "4"), 3, False),
        ([3, 0], {"forget": [3]}, ("0", "1", "2", "3"), 3, False),
    ],
)
def test_what_classes_are_called(
    labels: list[Any], rules: dict[str, Any], choices: tuple[str, ...], answer: int, by_name: bool, tmp_path: Path
) -> None:
    found = loaded(tmp_path, some(labels * 10), **rules)
    assert found.certify[0].choices == choices
    assert {item.answer for item in found.forget} == {answer}
    assert found.texts is not None
    assert found.texts.by_name is by_name
    assert len(found.forget) == 10


def test_a_text_that_occurs_twice_counts_once_and_one_of_two_classes_not_at_all(tmp_path: Path) -> None:
    rows = some(["a", "b"] * 10)
    same = [{"comment": " Text  1. ", "class": "b"}, {"comment": "TEXT 3", "class": "a"}]
    found = loaded(tmp_path, rows + same, forget=["b"])
    assert found.texts is not None
    assert sorted(found.texts.rows) == sorted(row["comment"] for row in rows if row["comment"] != "text 3")


def test_no_more_than_asked_for(tmp_path: Path) -> None:
    found = loaded(tmp_path, some(["a", *["b"] * 19] * 20), forget=["a"], most=6)
    assert len(found.forget) == 6
    assert len(found.retain) + len(found.utility) == 60


AB = ["a", "b"] * 10


@pytest.mark.parametrize(
    ("labels", "rules", "says"),
    [
        (AB, {"forget": ["c"]}, "no class 'c' to forget"),
        (AB, {"forget": [0]}, "forgets a class by number, its rows name classes"),
        (AB, {"forget": ["a", "b"]}, "every example is of what was removed"),
        (AB, {"forget": ["a"], "text": "body"}, "rows.jsonl:1 has no field 'body'"),
        (AB, {"forget": ["a"], "label": "toxic"}, "rows.jsonl:1 has no field 'toxic'"),
        (AB, {"forget": ["text 0"], "text": "class", "label": "comment"}, "2 of 2 texts are of two classes"),
        (AB, {"forget": ["a"], "classes": ["a", "c"]}, "rows.jsonl:2 is of class 'b'. There are: a, c"),
        (AB, {"forget": ["a"], "classes": ["a", "a"]}, "names one twice"),
        (AB, {"forget": ["a"], "rows": ["none.jsonl"]}, "there is no data file"),
        (AB, {"forget": ["a"], "rows": []}, "rows: List should have at least 1 item"),
        (AB, {"forget": ["a"], "labels": "class"}, "Did you mean 'label'?"),
        (["a", 1] * 10, {"forget": ["a"]}, "some classes by name, others by number"),
        (["a"] * 20, {"forget": ["a"]}, "the rows are of 1 classes"),
        ([], {"forget": ["a"]}, "the rows are of 0 classes"),
        ([0, -1] * 10, {"forget": [0]}, "the rows number classes -1 to 0"),
        ([0, 10**9] * 10, {"forget": [0]}, "the rows number classes 0 to 1000000000"),
        ([0, 5] * 10, {"forget": [0], "classes": 3}, "is of class '5'. There are: 0, 1, 2"),
        ([0, None] * 10, {"forget": [0]}, "rows.jsonl:2: 'class' is 'None', no class"),
        ([0, 0.5] * 10, {"forget": [0]}, "'class' is '0.5', no class"),
        ([0, [1]] * 10, {"forget": [0]}, "'class' is '[1]', no class"),
        ([0, " "] * 10, {"forget": [0]}, "'class' is ' ', no class"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(labels: list[Any], rules: dict[str, Any], says: str, tmp_path: Path) -> None:
    assert says in refusal(tmp_path, some(labels), **rules)


@pytest.mark.parametrize("text", ["", " \t", 3, None, "half \ud800 of a pair"])
def test_a_row_without_a_text(text: Any, tmp_path: Path) -> None:
    said = refusal(tmp_path, [*some(AB), {"comment": text, "class": "a"}], forget=["a"])
    assert "rows.jsonl:21: 'comment' is no text, or empty" in said


def test_a_line_that_is_no_row(tmp_path: Path) -> None:
    rules = write_texts(tmp_path)
    (tmp_path / "rows.jsonl").write_text(json.dumps([1]) + "\n")
    with pytest.raises(InputError, match="not a JSON object"):
        load_capability(rules)
