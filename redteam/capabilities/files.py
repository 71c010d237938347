"""A capability from the files of a user: `capability.toml` and JSONL, or arrays."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from redteam.capabilities.classes import classes_of
from redteam.capabilities.items import Capability, Item
from redteam.capabilities.splits import split_by_group
from redteam.config import CapabilityFile, ClassesFile, expand_path, read_capability_file
from redteam.errors import InputError

Row = dict[str, Any]


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
    forget = _items(rules, path, rules.forget)
    retain = _items(rules, path, rules.retain)
    shared = {item.group for item in forget} & {item.group for item in retain}
    retain = tuple(item for item in retain if item.group not in shared)
    sizes = (rules.splits.attack, rules.splits.select, rules.splits.certify)
    try:
        attack, select, certify = split_by_group(forget, sizes, rules.seed)
        kept, utility = split_by_group(retain, (0.5, 0.5), rules.seed)
    except ValueError as error:
        raise InputError(f"{path}: {error}", "Name files with more facts under forget and retain") from error
    return Capability(name=rules.name, attack=attack, select=select, certify=certify, retain=kept, utility=utility)


def _items(rules: CapabilityFile, toml: Path, files: Sequence[str]) -> tuple[Item, ...]:
    """Returns the items of the files, one per distinct question of a group.

    A question asked twice counts once. A group whose questions contradict each other (two people of one name,
    say) is left out whole: no answer to it is right.
    """
    by_group: dict[str, dict[str, Item]] = defaultdict(dict)
    contradicted: set[str] = set()
    for name in files:
        file = expand_path(name, toml)
        for line, row in _rows(file):
            item = _item(rules, row, name, f"{file}:{line}")
            known = by_group[item.group].setdefault(item.prompt, item)
            if known.completion != item.completion:
                contradicted.add(item.group)
    if 2 * len(contradicted) > len(by_group):
        raise InputError(
            f"{toml}: {len(contradicted)} of {len(by_group)} facts contradict themselves",
            "Let the prompt name all that the answer depends on",
        )
    return tuple(item for group, items in by_group.items() if group not in contradicted for item in items.values())


def _rows(file: Path) -> list[tuple[int, Row]]:
    if not file.is_file():
        raise InputError(f"there is no data file {file}", "Check `forget` and `retain` in the capability file")
    rows = []
    try:
        content = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file} is not readable as UTF-8 text ({error})", "Write one JSON object a line") from error
    # Not splitlines: JSON strings may hold U+2028 and other characters that it takes for the end of a line.
    for line, text in enumerate(content.split("\n"), 1):
        if not text.strip():
            continue
        try:
            row = json.loads(text)
        except (ValueError, RecursionError) as error:  # decode errors, endless numbers, endless nesting
            raise InputError(f"{file}:{line} is not JSON ({error})", "Write one JSON object a line") from error
        if not isinstance(row, dict):
            raise InputError(f"{file}:{line} is not a JSON object", "Write one JSON object a line")
        rows.append((line, row))
    return rows


def _item(rules: CapabilityFile, row: Row, file: str, where: str) -> Item:
    for field in (rules.choices, rules.answer, rules.group.field):
        if field not in row:
            raise InputError(f"{where} has no field {field!r}", "Name the fields of your rows in the capability file")
    group = _group(rules, str(row[rules.group.field]), where)
    listed, answer = row[rules.choices], row[rules.answer]
    if not isinstance(listed, list) or type(answer) is not int or not 0 <= answer < len(listed):
        raise InputError(f"{where}: {rules.answer!r} is no index into {rules.choices!r}", "Count choices from 0")
    right = str(listed[answer])
    choices = tuple(dict.fromkeys(str(choice) for choice in listed))
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


def _group(rules: CapabilityFile, text: str, where: str) -> str:
    if rules.group.pattern is None:
        return text
    match = re.search(rules.group.pattern, text)
    if match is None or match.group(1) is None:
        raise InputError(f"{where}: the group pattern does not match {text[:60]!r}", "Correct [group] pattern")
    return match.group(1)
