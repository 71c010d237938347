"""Options of a method: checked against its fields, whether they come from a command line or from Python."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import Field, fields, replace
from typing import Any

from redteam.errors import InputError
from redteam.registry import METHODS
from redteam.unlearning.contract import Method

Option = float | int | str | bool
AT_LEAST_ONE = ("batch_size", "every", "inner_steps", "task_size", "positions", "width", "hidden")
SHARES = ("share", "switch", "enough", "known_left", "share_left")
WORDS = {"true": True, "yes": True, "false": False, "no": False}


def create_method(name: str, options: Mapping[str, Any]) -> Method:
    """Returns the method with these options; text is read as the type that the option has.

    Raises:
        InputError: there is no such method or option, or a value is not of its type.
    """
    method: Any = METHODS.create(name)
    made: Method = with_options(method, options, f"the method {name}")
    return made


def with_options(record: Any, options: Mapping[str, Any], what: str) -> Any:
    """Returns a frozen dataclass with some of its fields replaced.

    Args:
        record: the dataclass.
        options: field -> value, or text that says the value.
        what: it is, for messages.

    Raises:
        InputError: there is no such field, or a value is not of its type.
    """
    known = {field.name: field for field in fields(record)}
    for name in options:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"Did you mean {close[0]!r}?" if close else f"Choose from: {', '.join(known) or 'none'}"
            raise InputError(f"{what} has no option {name!r}", hint)
    return replace(record, **{name: _value(known[name], value, what) for name, value in options.items()})


def options_of(record: Any) -> dict[str, Option]:
    """Returns every option of a method with its value, for the record."""
    return {field.name: getattr(record, field.name) for field in fields(record)}


def _value(field: Field[Any], given: Any, what: str) -> Option:
    """Returns `given` as the type of the field's default."""
    wanted = type(field.default)
    try:
        value = _read(wanted, given)
    except (ValueError, OverflowError, KeyError) as error:
        kind = {int: "a whole number", float: "a number", bool: "true or false"}.get(wanted, "text")
        raise InputError(f"{field.name} of {what} is {given!r}", f"Give {kind}, such as {field.default}") from error
    _refuse_out_of_range(field, value, what)
    return value


def _refuse_out_of_range(field: Field[Any], value: Option, what: str) -> None:
    """Refuses numbers that no method can mean: an option whose default is not negative is never negative."""
    default: Any = field.default
    if isinstance(value, bool | str) or default < 0:
        return
    least = 1 if field.name.endswith(AT_LEAST_ONE) else 0
    most = 1 if field.name.endswith(SHARES) else math.inf
    if not least <= value <= most:
        allowed = f"at least {least}" if math.isinf(most) else "a share between 0 and 1"
        raise InputError(f"{field.name} of {what} is {value}", f"Give {allowed}")


def _read(wanted: type, given: Any) -> Option:
    if wanted is bool:
        return given if isinstance(given, bool) else WORDS[str(given).lower()]
    if wanted is int:
        if isinstance(given, bool | float):
            raise ValueError
        return int(given)
    if wanted is float:
        value = float(given)
        if not math.isfinite(value):
            raise ValueError
        return value
    return str(given)
