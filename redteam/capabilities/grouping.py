"""Which rows speak of the same fact."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from redteam.config.capability import GroupRule
from redteam.engine.deadline import AttackHung, within
from redteam.errors import InputError

PATIENCE = 2.0  # seconds for a pattern to find the group of one row; some take for ever


def field_of(row: Mapping[str, Any], name: str, where: str) -> Any:
    """Returns what a row holds under a name; `a.b` is what is called b in what is called a.

    Raises:
        InputError: it holds nothing under it; `where` says which row that is.
    """
    if name in row:
        return row[name]
    outer, _, inner = name.partition(".")
    if inner and isinstance(row.get(outer), Mapping):
        return field_of(row[outer], inner, where)
    raise InputError(f"{where} has no field {name!r}", "Name the fields of your rows in the capability file")


def group_of(rule: GroupRule, row: Mapping[str, Any], where: str) -> str:
    """Returns the fact that a row speaks of.

    Raises:
        InputError: the row has no such field, or the pattern finds nothing in it in time.
    """
    text = str(field_of(row, rule.field, where))
    if rule.pattern is None:
        return text
    pattern = rule.pattern
    try:
        match = within(PATIENCE, lambda: re.search(pattern, text))
    except AttackHung as error:
        raise InputError(
            f"{where}: the group pattern does not come to an end with {text[:60]!r}",
            "Write it without repetitions inside repetitions",
        ) from error
    if match is None or match.group(1) is None:
        raise InputError(f"{where}: the group pattern does not match {text[:60]!r}", "Correct [group] pattern")
    return match.group(1)
