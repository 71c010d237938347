"""Rows of long measurements, each written as soon as it is there, with the versions of all that it depends on."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

Row = dict[str, Any]
ATTACKS = "attacks"  # versions of attacks: a piece may hold those of others, which work on other models


class Named(Protocol):
    """A row that is to be measured."""

    @property
    def names(self) -> set[str]:
        """All that it can be asked for by."""


P = TypeVar("P", bound=Named)


def asked_for(places: Sequence[P], variable: str) -> list[P]:
    """Returns the rows that an environment variable names, with commas between; all of them where it names none.

    Raises:
        SystemExit: a name is none of theirs.
    """
    wanted = {name.strip() for name in os.environ.get(variable, "").split(",")} - {""}
    known = {name: None for place in places for name in sorted(place.names)}
    if unknown := wanted - known.keys():
        raise SystemExit(f"{variable} names {min(unknown)!r}; there are {', '.join(sorted(known))}")
    return [place for place in places if not wanted or place.names & wanted]


def kept(piece: Path, versions: Mapping[str, Any]) -> Row | None:
    """Returns a row that was measured with these versions; None if there is none."""
    if not piece.exists():
        return None
    found = json.loads(piece.read_text(encoding="utf-8"))
    tried = {name: version for name, version in found["versions"][ATTACKS].items() if name in versions[ATTACKS]}
    row: Row = found["row"]
    return row if found["versions"] | {ATTACKS: tried} == versions else None


def measured(piece: Path, versions: Mapping[str, Any], measure: Callable[[], Row]) -> Row:
    """Returns a row, which is measured and written unless it was kept."""
    row = kept(piece, versions)
    if row is None:
        row = measure()
        piece.parent.mkdir(parents=True, exist_ok=True)
        part = piece.with_suffix(".part")
        part.write_text(json.dumps({"versions": versions, "row": row}, indent=2) + "\n", encoding="utf-8")
        part.replace(piece)
    return row
