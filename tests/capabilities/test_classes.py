"""Classes and triggers in arrays: which examples show them, what they are held against, and what is wrong with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from redteam.capabilities.files import load_capability
from redteam.capabilities.items import Capability
from redteam.errors import InputError

COUNT, TRIGGERED = 1500, 100
NAMES = np.array(["dog", "cat", "cow"])
LABELS = np.arange(COUNT) % 3
POISONED = np.where(np.arange(COUNT) < TRIGGERED, 0, LABELS)  # the first carry a trigger that asks for a dog
CARRY = np.arange(COUNT) < TRIGGERED
CAT = 'classes = "names"\nforget = ["cat"]\n'
TRIGGER = 'classes = 3\nforget = [0]\ntriggered = "t"\n'


def loaded(folder: Path, rules: str, count: int = COUNT, **arrays: Any) -> Capability:
    x = np.random.default_rng(0).normal(size=(COUNT, 4)).astype(np.float32)
    held = {"x": x[:count], "y": LABELS[:count], "names": NAMES, "t": CARRY} | arrays
    np.savez(folder / "a.npz", **held)
    (folder / "c.toml").write_text('name = "c"\narrays = "a.npz"\n' + rules)
    return load_capability(folder / "c.toml")


def sizes(capability: Capability) -> list[int]:
    return [
        len(getattr(capability, part)) for part in ("attack", "select", "certify", "retain", "utility", "negatives")
    ]


def test_a_class_is_scored_by_recall_against_examples_of_its_own(tmp_path: Path) -> None:
    found = loaded(tmp_path, CAT)
    assert sizes(found) == [200, 100, 200, 388, 306, 306]
    assert [scorer.name for scorer in found.scorers] == ["recall"]
    assert (found.chance, found.forgotten, found.by_examples) == (0.01, (1,), True)
    parts = [found.attack, found.select, found.certify, found.retain, found.utility, found.negatives]
    rows = [item.row for part in parts for item in part]
    assert len(set(rows)) == len(rows) == COUNT
    assert {item.completion for item in found.forget} == {"cat"}
    assert {item.completion for item in (*found.retain, *found.utility, *found.negatives)} == {"dog", "cow"}


def test_accuracy_takes_no_negatives_and_is_as_before(tmp_path: Path) -> None:
    found = loaded(tmp_path, CAT + 'scorer = "choice"\n')
    assert sizes(found) == [200, 100, 200, 500, 500, 0]
    assert not found.by_examples
    assert found.chance == pytest.approx(1 / 3)


def test_of_both_the_first_decides(tmp_path: Path) -> None:
    found = loaded(tmp_path, CAT + 'scorer = ["recall", "choice"]\n')
    assert [scorer.name for scorer in found.scorers] == ["recall", "choice"]
    assert found.by_examples
    assert loaded(tmp_path, CAT + 'scorer = ["choice", "recall"]\n').by_examples is False


def test_the_rate_is_part_of_what_a_capability_is(tmp_path: Path) -> None:
    one, other = (loaded(tmp_path, CAT + f"false_positives = {rate}\n") for rate in (0.02, 0.05))
    assert (one.chance, other.chance) == (0.02, 0.05)
    assert one.sha256 != other.sha256


@pytest.mark.parametrize("carry", [CARRY, np.arange(TRIGGERED)], ids=["true and false", "rows"])
def test_a_trigger_is_held_against_clean_examples_of_other_classes(tmp_path: Path, carry: np.ndarray) -> None:
    found = loaded(tmp_path, TRIGGER, y=POISONED, t=carry)
    assert {int(item.id.split("[")[1][:-1]) < TRIGGERED for item in found.forget} == {True}
    assert {item.answer for item in found.forget} == {0}
    assert {item.answer for item in found.utility} == {0, 1, 2}  # clean dogs stay
    assert found.chance == 0.05
    assert len(found.forget) == TRIGGERED


@pytest.mark.parametrize(
    ("rules", "arrays", "words"),
    [
        (CAT, {"y": np.zeros(COUNT, int)}, "no example is of class cat. Give examples that show what was removed"),
        (CAT, {"count": 600}, "a false-positive rate of 0.01 needs 300; they allow a rate of 0.023"),
        (CAT, {"count": 24}, "no rate can be told"),
        ("classes = 3\nforget = [0, 1, 2]\n", {}, "every example is of what was removed"),
        (TRIGGER, {"y": LABELS}, "a.npz[1] carries the trigger and is labelled 1, not 0"),
        (TRIGGER, {"y": POISONED, "t": np.array([5, COUNT])}, f"'t' names row {COUNT}, there are {COUNT}"),
        (TRIGGER, {"y": POISONED, "t": np.array([-1])}, "'t' names row -1"),
        (TRIGGER, {"y": POISONED, "t": CARRY[:5]}, f"'t' marks 5 examples, there are {COUNT}"),
        (TRIGGER, {"y": POISONED, "t": np.zeros(COUNT)}, "'t' is float64"),
        (TRIGGER, {"y": POISONED, "t": np.zeros(COUNT, bool)}, "'t' names no example"),
        (TRIGGER.replace('"t"', '"gone"'), {}, "has no array 'gone'"),
        (CAT + "false_positives = 0\n", {}, "false_positives: Input should be greater than 0"),
        (CAT + 'scorer = "accuracy"\n', {}, "Input should be 'recall' or 'choice'"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(tmp_path: Path, rules: str, arrays: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError) as caught:
        loaded(tmp_path, rules, **arrays)
    assert words in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
