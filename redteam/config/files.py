"""What all files have in common that a user writes or carries beside a checkpoint: unknown keys are errors."""

from __future__ import annotations

import os
import re
import tomllib
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from redteam.errors import InputError

# What parsers raise on hostile text: their decode errors are ValueErrors, as are numbers of thousands of digits.
UNREADABLE = (OSError, ValueError, RecursionError)
LONGEST = 256 * 2**10  # bytes of a file that a person writes; parsers may take thirty times as much
DOTS = 100  # of one key in TOML: its parser keeps every beginning of it, so that it takes their square
QUOTED = re.compile(r""""(?:[^"\\\n]|\\.)*"|'[^'\n]*'""")
Loc = tuple[int | str, ...]
Model = TypeVar("Model", bound=BaseModel)


def listed(given: Any) -> Any:
    """Lets one name stand for a list of one."""
    return [given] if isinstance(given, str) else given


def read_toml(path: Path, remedy: str) -> dict[str, Any]:
    """Reads TOML.

    Raises:
        InputError: it cannot be read; `remedy` says what to do about it.
    """
    try:
        text = read_text(path)
        if max(line.count(".") for line in QUOTED.sub("", text).split("\n")) > DOTS:
            raise ValueError(f"a key has more than {DOTS} parts")
        return tomllib.loads(text)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})", remedy) from error
    except UNREADABLE as error:
        raise InputError(f"{path} is not readable TOML ({error})", remedy) from error


def read_text(path: Path) -> str:
    """Reads a text that a person may have written.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no UTF-8, or longer than anybody writes.
    """
    if path.stat().st_size > LONGEST:
        raise ValueError(f"it has more than {LONGEST} bytes")
    return path.read_text(encoding="utf-8")


def expand_path(text: str, beside: Path) -> Path:
    """Resolves a path written in a file: `$NAME` from the environment, relative ones beside that file.

    Raises:
        InputError: a variable is not set.
    """

    def value(match: re.Match[str]) -> str:
        name = match.group(1) or match.group(2)
        if name not in os.environ:
            raise InputError(f"{text!r} uses ${name}, which is not set", f"Set it: export {name}=/path/to/data")
        return os.environ[name]

    expanded = Path(re.sub(r"\$(?:(\w+)|\{(\w+)\})", value, text))
    # An address of the hub is no path: `redteam.checkpoints.hub`.
    return expanded if expanded.is_absolute() or text.startswith("hf:") else beside.parent / expanded


def validated(model: type[Model], data: Any, path: Path, beside: Path | None = None) -> Model:
    """Returns data out of a file as a record.

    Args:
        model: the form.
        data: what the file holds.
        path: of the file, for messages.
        beside: the file that paths in the data are relative to, for forms whose validators resolve paths.

    Raises:
        InputError: it is not of that form; the first place that is wrong is named.
    """
    try:
        return model.model_validate(data, context=beside)
    except ValidationError as error:
        found = error.errors()
        misspelt = (one for one in found if one["type"] == "extra_forbidden" and _near(model, one["loc"]))
        first = next(misspelt, found[0])  # before a key that is lacking: spelled right, it may be that one
        where = ".".join(str(part) for part in first["loc"])[:200] or "the top level"
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        remedies = {"extra_forbidden": _meant, "missing": _lacking}
        advise = remedies.get(first["type"])
        remedy = "Correct that key" if advise is None else advise(model, first["loc"])
        said = first["msg"].removeprefix("Value error, ")
        raise InputError(f"{path}: {where}: {said}{more}", remedy) from error


def _meant(model: type[BaseModel], loc: Loc) -> str:
    """Returns what to do about a key that is not known: the known one that is spelled most like it, if one is."""
    near = _near(model, loc)
    return f"Did you mean {near[0]!r}?" if near else "Remove that key, or correct its name"


def _near(model: type[BaseModel], loc: Loc) -> list[str]:
    return get_close_matches(str(loc[-1]), getattr(_inside(model, loc[:-1]), "model_fields", ()), n=1)


def _lacking(model: type[BaseModel], loc: Loc) -> str:
    """Returns what to do about a key that is required: of a table, where to write its keys."""
    if hasattr(_inside(model, loc), "model_fields"):
        return f"Put its keys under [{'.'.join(str(part) for part in loc)}]"
    return "Add that key"


def _inside(model: type[BaseModel], loc: Loc) -> Any:
    """Returns what stands at a place, of keys alone: another record, or a type; None beyond lists and mappings."""
    inside: Any = model
    for part in loc:
        fields = getattr(inside, "model_fields", {})
        inside = fields[part].annotation if part in fields else None
    return inside
