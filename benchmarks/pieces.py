"""Rows of long measurements, each written as soon as it is there, with the versions of all that it depends on."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Row = dict[str, Any]
ATTACKS = "attacks"  # versions of attacks: a piece may hold those of others, which work on other models


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
