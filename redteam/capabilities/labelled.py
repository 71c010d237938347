"""A capability of a classifier of text from the files of a user: some of its classes, and rows that show them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from redteam.capabilities.classes import dealt, number_of
from redteam.capabilities.duplicates import normal_form
from redteam.capabilities.grouping import field_of
from redteam.capabilities.items import Capability, Texts
from redteam.capabilities.rows import Row, rows_of
from redteam.config.capability import TextsFile
from redteam.config.files import expand_path
from redteam.errors import InputError

MOST_CLASSES = 100_000


@dataclass(frozen=True, slots=True)
class Labelled:
    """A row.

    Attributes:
        identity: file and line.
        text: what the model reads.
        label: what its class is called: a name, or a number counted from 0.
    """

    identity: str
    text: str
    label: str | int


def texts_of(rules: TextsFile, path: Path) -> Capability:
    """Reads the rows that rules name; `path` is where the rules stand, since paths in them are relative to it.

    A text that occurs twice counts once, however it is written; one that is said to be of two classes is left out.
    Every text is a fact of its own, and may be in any split.

    Raises:
        InputError: a file is missing or damaged, a row has no text or no class, or too little is left to split.
    """
    read = [
        _labelled(rules, row, name, f"{file}:{line}")
        for name, file in ((name, expand_path(name, path)) for name in rules.rows)
        for line, row in rows_of(file)
    ]
    names = _names(rules, read, path)
    by_name = rules.classes is None and any(isinstance(row.label, str) for row in read)
    numbers = [_number(row, names) for row in read]
    if by_name and any(isinstance(wanted, int) for wanted in rules.forget):
        raise InputError(f"{path} forgets a class by number, its rows name classes", "Name it, or list `classes`")
    forgotten = {number_of(wanted, names, path) for wanted in rules.forget}
    labels = _distinct(read, numbers, path)
    removed = {row for row, label in labels.items() if label in forgotten}
    if not removed:
        wanted = ", ".join(names[number] for number in sorted(forgotten))
        raise InputError(f"{path}: no example is of class {wanted}", "Give examples that show what was removed")
    used, parts = dealt(rules, path, labels, removed, names, lambda row: read[row].identity)
    return Capability(name=rules.name, **parts, texts=Texts(tuple(read[row].text for row in used), by_name))


def _labelled(rules: TextsFile, row: Row, file: str, where: str) -> Labelled:
    text, label = field_of(row, rules.text, where), field_of(row, rules.label, where)
    if not isinstance(text, str) or not text.strip() or not _is_unicode(text):
        raise InputError(f"{where}: {rules.text!r} is no text, or empty", "Leave that row out, or name another field")
    if isinstance(label, str) and label.strip():
        label = label.strip()
        number = label.isascii() and label.isdecimal() and len(label) < 7 and not _is_named(rules, label)
        label = int(label) if number else label
    elif isinstance(label, int):  # true and false are 1 and 0
        label = int(label)
    else:
        raise InputError(f"{where}: {rules.label!r} is {str(label)[:40]!r}, no class", "Give its name or its number")
    return Labelled(f"{file}:{where.rpartition(':')[2]}", text, label)


def _is_unicode(text: str) -> bool:
    """Returns whether no half of a surrogate pair is in a text: JSON may hold one, and tokenizers take none."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _is_named(rules: TextsFile, label: str) -> bool:
    return isinstance(rules.classes, list) and label in rules.classes


def _names(rules: TextsFile, read: Sequence[Labelled], path: Path) -> tuple[str, ...]:
    """Returns the names of all classes: those that are given, numbers, or what the rows call them, sorted."""
    if isinstance(rules.classes, int):
        return tuple(str(number) for number in range(rules.classes))
    if rules.classes is not None:
        if len(set(rules.classes)) != len(rules.classes):
            raise InputError(f"{path}: `classes` names one twice", "Name each once")
        return tuple(rules.classes)
    labels = {row.label for row in read}
    numbers = [label for label in labels if isinstance(label, int)]
    if numbers and len(numbers) < len(labels):
        raise InputError(f"{path}: the rows call some classes by name, others by number", "List `classes`")
    if len(labels) < 2:
        raise InputError(f"{path}: the rows are of {len(labels)} classes", "Name files that show two or more")
    if numbers and not 0 <= min(numbers) <= max(numbers) < MOST_CLASSES:
        raise InputError(f"{path}: the rows number classes {min(numbers)} to {max(numbers)}", "Count classes from 0")
    return tuple(map(str, range(max(numbers) + 1))) if numbers else tuple(sorted(map(str, labels)))


def _number(row: Labelled, names: Sequence[str]) -> int:
    if isinstance(row.label, int) and 0 <= row.label < len(names):
        return row.label
    if row.label in names:
        return names.index(str(row.label))
    raise InputError(f"{row.identity} is of class {str(row.label)[:40]!r}", f"There are: {', '.join(names)[:200]}")


def _distinct(read: Sequence[Labelled], numbers: Sequence[int], path: Path) -> dict[int, int]:
    """Returns the class of each different text, by the first row that holds it."""
    first: dict[str, int] = {}
    contradicted = set()
    for row, labelled in enumerate(read):
        known = first.setdefault(normal_form(labelled.text), row)
        if numbers[known] != numbers[row]:
            contradicted.add(known)
    if 2 * len(contradicted) > len(first):
        raise InputError(
            f"{path}: {len(contradicted)} of {len(first)} texts are of two classes", "Name the field of one class"
        )
    return {row: numbers[row] for row in first.values() if row not in contradicted}
