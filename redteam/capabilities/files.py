"""A capability from the files of a user: `capability.toml`, and what it names: rows, tasks, or arrays."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from redteam.capabilities.classes import classes_of
from redteam.capabilities.duplicates import asked_in, normal_form, together
from redteam.capabilities.grouping import field_of, group_of
from redteam.capabilities.harness import Tasks
from redteam.capabilities.hub_rows import START, dataset_rows
from redteam.capabilities.items import Capability, Item
from redteam.capabilities.rows import Row, rows_of
from redteam.capabilities.splits import split_by_group
from redteam.config import TASK, CapabilityFile, ClassesFile, expand_path, read_capability_file
from redteam.errors import InputError

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def load_capability(path: Path) -> Capability:
    """Reads a `capability.toml` and the files that it names.

    Raises:
        InputError: a file is missing or not of the expected form, with the line; or too little is left to split.
    """
    rules = read_capability_file(path)
    return classes_of(rules, path) if isinstance(rules, ClassesFile) else capability_of(rules, path)


def capability_of(rules: CapabilityFile, path: Path) -> Capability:
    """Reads the files that rules name; `path` is where the rules stand, since paths in them are relative to it.

    Raises:
        InputError: as `load_capability`.
    """
    tasks = Tasks(rules.tasks, path)
    forget = _items(rules, path, tasks, rules.forget)
    retain = _items(rules, path, tasks, rules.retain)
    about, asked = {item.group for item in forget}, asked_in(forget)
    retain = tuple(item for item in retain if item.group not in about and normal_form(item.prompt) not in asked)
    sizes = (rules.splits.attack, rules.splits.select, rules.splits.certify)
    try:
        attack, select, certify = split_by_group(forget, sizes, rules.seed)
        kept, utility = split_by_group(retain, (0.5, 0.5), rules.seed)
    except ValueError as error:
        raise InputError(f"{path}: {error}", "Name files with more facts under forget and retain") from error
    return Capability(name=rules.name, attack=attack, select=select, certify=certify, retain=kept, utility=utility)


def _items(rules: CapabilityFile, toml: Path, tasks: Tasks, sources: Sequence[str]) -> tuple[Item, ...]:
    """Returns the items of the sources, one per distinct question of a group.

    A question asked twice counts once, however it is written, and groups that share one are one. A group whose
    questions contradict each other (two people of one name, say) is left out whole: no answer to it is right.
    """
    by_group: dict[str, dict[str, Item]] = defaultdict(dict)
    contradicted: set[str] = set()
    read = [item for source in sources for item in _read(rules, toml, tasks, source)]
    for item in together(read):
        known = by_group[item.group].setdefault(normal_form(item.prompt), item)
        if known.completion != item.completion:
            contradicted.add(item.group)
    if 2 * len(contradicted) > len(by_group):
        raise InputError(
            f"{toml}: {len(contradicted)} of {len(by_group)} facts contradict themselves",
            "Let the prompt name all that the answer depends on",
        )
    return tuple(item for group, items in by_group.items() if group not in contradicted for item in items.values())


def _read(rules: CapabilityFile, toml: Path, tasks: Tasks, source: str) -> Iterator[Item]:
    if source.startswith(TASK):
        yield from tasks.items(source)
        return
    place = source if source.startswith(START) else expand_path(source, toml)
    for line, row in dataset_rows(place) if isinstance(place, str) else rows_of(place):
        yield _item(rules, row, source, f"{place}:{line}")


def _item(rules: CapabilityFile, row: Row, file: str, where: str) -> Item:
    listed = _choices(rules, row, where)
    assert rules.group is not None  # there are rows
    group = group_of(rules.group, row, where)
    answer = _answer(rules, field_of(row, rules.answer, where), listed, where)
    right = listed[answer]
    choices = tuple(dict.fromkeys(listed))
    if len(choices) < 2:
        raise InputError(f"{where} has fewer than two different choices", "Give each question a wrong choice")
    if not all(choice.strip() for choice in choices):
        raise InputError(f"{where} has an empty choice", "A model cannot be asked how likely nothing is")
    try:
        prompt = rules.prompt.format_map({**row, "group": group})
    except (KeyError, IndexError, ValueError, AttributeError, TypeError) as error:
        raise InputError(
            f"{where}: the prompt template fails ({error!r})", "Use fields of the rows and {group}"
        ) from error
    if not prompt.strip():
        raise InputError(f"{where}: the prompt is empty", "Correct `prompt` in the capability file")
    identity = f"{file}:{where.rpartition(':')[2]}"
    return Item(id=identity, group=group, prompt=prompt, choices=choices, answer=choices.index(right))


def _choices(rules: CapabilityFile, row: Row, where: str) -> list[str]:
    """Returns the choices that one field lists, or several hold; empty ones of several are left out."""
    if not isinstance(rules.choices, str):
        held = [str(field_of(row, name, where)) for name in rules.choices]
        return [choice for choice in held if choice.strip()]
    listed = field_of(row, rules.choices, where)
    if not isinstance(listed, list):
        raise InputError(f"{where}: {rules.choices!r} is no list", "Or name the fields that hold a choice each")
    return [str(choice) for choice in listed]


def _answer(rules: CapabilityFile, given: Any, listed: list[str], where: str) -> int:
    """Returns the index of the right choice, which may be given as that, as its letter, or as its text.

    Raises:
        InputError: it is none of these, or could be two of them.
    """
    readings = {given} if type(given) is int else set()
    if isinstance(given, str):
        text = given.strip()
        readings |= {number for number, choice in enumerate(listed) if choice.strip() == text}
        readings |= {int(text)} if text.isdecimal() and len(text) < 4 else set()
        readings |= {LETTERS.index(text)} if len(text) == 1 and text in LETTERS else set()
    found = {listed[reading]: reading for reading in readings if 0 <= reading < len(listed)}
    if len(found) > 1:
        raise InputError(
            f"{where}: {rules.answer!r} is {given!r}, a choice and the place of another",
            "Give the place as a number",
        )
    if not found:
        raise InputError(
            f"{where}: {rules.answer!r} is no index into the choices",
            "Give its place counted from 0, its letter, or the choice itself",
        )
    return next(iter(found.values()))
