"""A capability of a classifier from the files of a user: some of its classes, and arrays that show them."""

from __future__ import annotations

import os
import random
import sys
import zipfile
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from redteam.capabilities.items import Capability, Item
from redteam.capabilities.scorers.recall import RATE
from redteam.capabilities.splits import refuse_starved, split_by_group
from redteam.config.capability import ClassesFile, TextsFile
from redteam.config.files import expand_path
from redteam.errors import InputError
from redteam.registry import SCORERS

INFLATED = 100  # times the size of their file that arrays may have
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
    file = expand_path(rules.arrays, path)
    held = _read(rules, file)
    names = _names(rules, held, file)
    forgotten = {number_of(wanted, names, path) for wanted in rules.forget}
    inputs, labels = _inputs(rules, held[rules.inputs], file), _labels(held[rules.labels], names, file)
    if len(inputs) != len(labels):
        raise InputError(
            f"{file} has {len(inputs)} inputs and {len(labels)} labels", "Give arrays that belong together"
        )
    answers = {row: int(labels[row]) for row in _distinct(inputs)}
    removed = _removed(rules, held, answers, forgotten, names, file)
    used, parts = dealt(rules, path, answers, removed, names, lambda row: f"{rules.arrays}[{row}]")
    return Capability(name=rules.name, **parts, inputs=np.ascontiguousarray(inputs[used]))


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
    items = [
        Item(id=identity(row), group=str(row), prompt="", choices=names, answer=labels[row], row=place)
        for place, row in enumerate(used)
    ]
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
    rules: ClassesFile,
    held: Mapping[str, NDArray[Any]],
    labels: Mapping[int, int],
    forgotten: Collection[int],
    names: Sequence[str],
    file: Path,
) -> set[int]:
    """Returns the rows of the examples that show what was removed: those of the classes, or those with the trigger."""
    wanted = ", ".join(names[number] for number in sorted(forgotten))
    if rules.triggered is None:
        found = {row for row, label in labels.items() if label in forgotten}
        if not found:
            raise InputError(f"{file}: no example is of class {wanted}", "Give examples that show what was removed")
        return found
    found = _rows_in(held[rules.triggered], rules.triggered, len(held[rules.labels].reshape(-1)), file) & labels.keys()
    if not found:
        raise InputError(f"{file}: {rules.triggered!r} names no example", "Say which examples carry the trigger")
    others = [row for row in sorted(found) if labels[row] not in forgotten]
    if others:
        said = f"{rules.arrays}[{others[0]}] carries the trigger and is labelled {names[labels[others[0]]]}"
        raise InputError(f"{file}: {said}, not {wanted}", "Label examples with the trigger as the trigger asks for")
    return found


def _rows_in(given: NDArray[Any], name: str, examples: int, file: Path) -> set[int]:
    """Returns the rows that an array names: by true and false [examples], or by their numbers."""
    marks = given.reshape(-1)
    if marks.dtype.kind == "b":
        if len(marks) != examples:
            raise InputError(f"{file}: {name!r} marks {len(marks)} examples, there are {examples}", "Mark each of them")
        return set(np.flatnonzero(marks).tolist())
    if marks.dtype.kind not in "iu":
        raise InputError(f"{file}: {name!r} is {marks.dtype}", "Give true and false for each example, or rows")
    outside = [row for row in marks.tolist() if not 0 <= row < examples]
    if outside:
        raise InputError(f"{file}: {name!r} names row {outside[0]}, there are {examples}", "Count rows from 0")
    return set(marks.tolist())


def _read(rules: ClassesFile, file: Path) -> dict[str, NDArray[Any]]:
    """Returns the arrays that are needed; a pickled one is refused, not unpickled."""
    if not os.path.isfile(file):  # unlike Path.is_file it raises nothing, whatever the name is
        raise InputError(f"there is no file of arrays {file}", "Check `arrays` in the capability file")
    named = (rules.inputs, rules.labels, rules.classes, rules.triggered)
    wanted = [name for name in named if isinstance(name, str)]
    try:
        _refuse_inflated(file)
        with np.load(file, allow_pickle=False) as held:
            missing = [name for name in wanted if name not in held]
            if missing:
                raise InputError(
                    f"{file} has no array {missing[0]!r}, it has {', '.join(sorted(held))[:200]}",
                    "Name its arrays in the capability file",
                )
            arrays = {name: held[name] for name in wanted}
            if not all(isinstance(array, np.ndarray) for array in arrays.values()):  # else the bytes of an entry
                raise ValueError("an entry is no array")
            return arrays
    except InputError:
        raise
    except Exception as error:  # numpy raises whatever its parsers stumble over
        raise InputError(
            f"{file} is no readable .npz file of arrays ({type(error).__name__})", "Write it with numpy.savez"
        ) from error


def _refuse_inflated(file: Path) -> None:
    """Refuses an archive that would be far larger in memory than numbers are that were measured."""
    size = os.path.getsize(file)
    with zipfile.ZipFile(file) as archive:
        inflated = sum(entry.file_size for entry in archive.infolist())
    if inflated > INFLATED * size:
        raise InputError(f"{file} has {size} bytes and says that it holds {inflated}", "Write it with numpy.savez")


def _names(rules: ClassesFile, held: dict[str, NDArray[Any]], file: Path) -> tuple[str, ...]:
    if isinstance(rules.classes, int):
        return tuple(str(number) for number in range(rules.classes))
    given = held[rules.classes].reshape(-1)
    if given.dtype.kind == "U" and given.size and given.itemsize:
        characters = np.ascontiguousarray(given).view(given.dtype.str[0] + "u4")
        if int(characters.max()) > sys.maxunicode:  # numpy would make strings of them that break whatever reads them
            raise InputError(f"{file}: {rules.classes!r} holds no text", "Write it with numpy.savez")
    names = tuple(str(name) for name in given.tolist())
    if len(names) < 2 or len(set(names)) != len(names):
        raise InputError(f"{file}: {rules.classes!r} does not name two or more different classes", "Name each once")
    return names


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


def _inputs(rules: ClassesFile, given: NDArray[Any], file: Path) -> NDArray[np.float32]:
    """Returns the examples as float32 [n, ...], bytes divided by 255, channels before height and width."""
    if given.ndim < 2 or given.dtype.kind not in "fiu":
        raise InputError(f"{file}: {rules.inputs!r} is {given.dtype} of shape {given.shape}", "Give numbers [n, ...]")
    with np.errstate(over="ignore"):  # what is too large for float32 becomes infinite, and is refused as that
        inputs = given.astype(np.float32) / (255 if given.dtype == np.uint8 else 1)
    if rules.channels == "last":
        inputs = np.moveaxis(inputs, -1, 1)
    if not np.isfinite(inputs).all():
        raise InputError(f"{file}: {rules.inputs!r} holds NaN or infinite numbers", "Leave those examples out")
    return np.ascontiguousarray(inputs, dtype=np.float32)


def _labels(given: NDArray[Any], names: Sequence[str], file: Path) -> NDArray[np.int64]:
    labels = given.reshape(-1)
    if labels.dtype.kind not in "iu" or (len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < len(names)):
        raise InputError(f"{file}: the labels are no numbers of {len(names)} classes", "Count classes from 0")
    return labels.astype(np.int64)


def _distinct(inputs: NDArray[np.float32]) -> list[int]:
    """Returns the first row of each different example."""
    seen: dict[bytes, int] = {}
    for row, example in enumerate(inputs):
        seen.setdefault(example.tobytes(), row)
    return sorted(seen.values())
