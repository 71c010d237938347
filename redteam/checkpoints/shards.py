"""Which weight files of a Hugging Face directory belong to its model."""

from __future__ import annotations

import json
from pathlib import Path

from redteam.errors import InputError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"


def shard_paths(directory: Path) -> list[Path]:
    """Returns the weight files that transformers would load, sorted: the single one, else those of the index.

    Raises:
        InputError: the index is malformed, or names a file outside the directory.
    """
    if (directory / SINGLE).exists():
        return [directory / SINGLE]
    index = directory / INDEX
    try:
        names = {str(name) for name in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise InputError(f"{index} is not a readable index of shards", "Copy the directory again") from error
    for name in names:
        if Path(name).name != name or "\\" in name or not name.endswith(".safetensors"):
            raise InputError(
                f"{index} names {name!r}, which is no safetensors file in that directory",
                "Write the model again with save_pretrained",
            )
    if not names:
        raise InputError(f"{index} names no weights", "Write the model again with save_pretrained")
    return [directory / name for name in sorted(names)]
