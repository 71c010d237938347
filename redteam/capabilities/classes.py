"""A capability of a classifier from the files of a user: some of its classes, and arrays that show them."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np

from redteam.capabilities.arrays import LabelledArrays, read_arrays
from redteam.capabilities.items import Capability, Item
from redteam.capabilities.scorers.recall import RATE
from redteam.capabilities.splits import refuse_starved, split_by_group
from redteam.config.capability import ClassesFile, TextsFile
from redteam.errors import InputError
from redteam.registry import SCORERS

RETAINED = 10  # examples of what stays, for each of what was removed
HELD = 1000  # of them at most that measure utility, and as many more that are held out to draw the line of "recall" by
TRIGGER_RATE = 0.05  # false positives: whoever is fooled by a trigger is fooled more often than by an odd example


def classes_of(rules: ClassesFile, path: Path) -> Capability:
    """Reads the arrays that rules name; `path` is where the rules stand, since paths in them are relative to it.

    An example that occurs twice counts once. Every example is a fact of its own, and may be in any split.

    Raises:
        InputError: the file is missing or damaged, has no such arrays, or arrays that do not belong together; or too
            little is left to split.
    """
    held = read_arrays(rules, path, () if rules.triggered is None else (rules.triggered,))
    forgotten = {number_of(wanted, held.names, path) for wanted in rules.forget}
    answers = {row: int(held.labels[row]) for row in held.copies()}
    removed = _removed(rules, held, answers, forgotten)
    used, parts = dealt(rules, path, answers, removed, held.names, lambda row: f"{rules.arrays}[{row}]")
    return Capability(name=rules.name, **parts, inputs=np.ascontiguousarray(held.inputs[used]))


def dealt(
    rules: ClassesFile | TextsFile,
    path: Path,
    labels: Mapping[int, int],
    removed: Collection[int],
    names: tuple[str, ...],
    identity: Callable[[int], str],
) -> tuple[list[int], dict[str, Any]]:
    """Deals the examples of classes into splits.

    Args:
        rules: say how many there may be, how they are split, and how they are scored.
        path: where the rules stand, for messages.
        labels: class of each distinct example, by its row.
        removed: rows of the examples that show what was removed.
        names: of all classes.
        identity: names an example.

    Returns:
        The rows that are used, and what a capability has of them: the items of each split, whose `row` is a place among
        these, and its scorers.

    Raises:
        InputError: too little is left to split, or to draw the line of the scorer by.
    """
    rows = list(labels)
    random.Random(rules.seed).shuffle(rows)
    forget = [row for row in rows if row in removed][: rules.most]
    retain = [row for row in rows if row not in removed][: RETAINED * rules.most]
    used = [*forget, *retain]
    items = examples_of(used, names, labels, identity)
    if not retain:
        raise InputError(f"{path}: every example is of what was removed", "Give examples of what stays too")
    answers, scorers = {item.answer for item in items[: len(forget)]}, _scorers(rules)
    sizes = (rules.splits.attack, rules.splits.select, rules.splits.certify)
    try:
        attack, select, certify = split_by_group(items[: len(forget)], sizes, rules.seed)
        kept, utility, negatives = _stays(rules, items[len(forget) :], scorers, answers)
    except ValueError as error:
        raise InputError(f"{path}: {error}", "Name files with more examples, or fewer classes to forget") from error
    refuse_starved(attack, items[: len(forget)], path)
    parts = {"attack": attack, "select": select, "certify": certify, "retain": kept, "utility": utility}
    for scorer in filter(_held_against, scorers):
        for split in (utility, negatives):
            scorer.refuse_few(sum(item.answer not in answers for item in split), str(path))
    return used, {**parts, "negatives": negatives, "scorers": scorers}


def examples_of(
    rows: Sequence[int], names: tuple[str, ...], labels: Mapping[int, int] | Any, identity: Callable[[int], str]
) -> list[Item]:
    """Returns an item for each row, a fact by itself, whose own `row` is its place among them.

    Args:
        rows: of the examples that are used.
        names: of all classes.
        labels: class of an example, by its row.
        identity: names an example.
    """
    return [
        Item(id=identity(row), group=str(row), prompt="", choices=names, answer=int(labels[row]), row=place)
        for place, row in enumerate(rows)
    ]


def _held_against(scorer: Any) -> bool:
    """Returns whether a scorer holds examples of a class against others."""
    return "negatives" in scorer.needs


def _stays(
    rules: ClassesFile | TextsFile, items: Sequence[Item], scorers: Sequence[Any], answers: Collection[int]
) -> list[tuple[Item, ...]]:
    """Returns what is trained on of what stays, what measures utility, and what forgotten examples are held against.

    A quarter each of the latter two; a third where a scorer takes so many to draw its line by.

    Args:
        rules: have the seed.
        items: of what stays.
        scorers: of the capability.
        answers: forgotten classes; examples of them that carry no trigger draw no line.

    Raises:
        ValueError: there are fewer items than splits.
    """
    if not any(map(_held_against, scorers)):
        return [*split_by_group(items, (0.5, 0.5), rules.seed), ()]
    usable = sum(item.answer not in answers for item in items) / max(1, len(items))
    needed = max(scorer.needed for scorer in filter(_held_against, scorers)) / max(usable, 0.01)
    held = min(HELD, max(len(items) // 4, min(ceil(1.02 * needed), len(items) // 3)))
    return split_by_group(items, (len(items) - 2 * held, held, held), rules.seed)


def _scorers(rules: ClassesFile | TextsFile) -> tuple[Any, ...]:
    """Returns the scorers that rules name, those that take a false-positive rate with the one that rules give."""
    usual = TRIGGER_RATE if isinstance(rules, ClassesFile) and rules.triggered is not None else RATE
    rate = usual if rules.false_positives is None else rules.false_positives
    made = map(SCORERS.create, rules.scorer)
    return tuple(replace(scorer, rate=rate) if _held_against(scorer) else scorer for scorer in made)


def _removed(
    rules: ClassesFile, held: LabelledArrays, labels: Mapping[int, int], forgotten: Collection[int]
) -> set[int]:
    """Returns the rows of the examples that show what was removed: those of the classes, or those with the trigger."""
    wanted = ", ".join(held.names[number] for number in sorted(forgotten))
    if rules.triggered is None:
        found = {row for row, label in labels.items() if label in forgotten}
        if not found:
            raise InputError(
                f"{held.file}: no example is of class {wanted}", "Give examples that show what was removed"
            )
        return found
    found = held.rows_in(rules.triggered) & labels.keys()
    if not found:
        raise InputError(f"{held.file}: {rules.triggered!r} names no example", "Say which examples carry the trigger")
    others = [row for row in sorted(found) if labels[row] not in forgotten]
    if others:
        said = f"{rules.arrays}[{others[0]}] carries the trigger and is labelled {held.names[labels[others[0]]]}"
        raise InputError(
            f"{held.file}: {said}, not {wanted}", "Label examples with the trigger as the trigger asks for"
        )
    return found


def number_of(wanted: str | int, names: Sequence[str], path: Path) -> int:
    """Returns the number of a class that a capability file calls by name or number.

    Raises:
        InputError: there is no such class.
    """
    if isinstance(wanted, int) and 0 <= wanted < len(names):
        return wanted
    if isinstance(wanted, str) and wanted in names:
        return names.index(wanted)
    raise InputError(f"{path}: there is no class {wanted!r} to forget", f"There are: {', '.join(names)[:200]}")
