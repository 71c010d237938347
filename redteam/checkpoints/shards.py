"""Which weight files of a Hugging Face directory belong to its model."""

from __future__ import annotations

from pathlib import Path

from redteam.checkpoints.untrusted import load_json
from redteam.errors import InputError

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
BIN, BIN_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"  # of torch.save, before safetensors
WEIGHTS = (SINGLE, INDEX, BIN, BIN_INDEX)
MAX_NAME = 200  # characters of the name of a file; file systems have 255 bytes
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")  # what peft writes now, and wrote once


def shard_paths(directory: Path) -> list[Path]:
    """Returns the weight files that transformers would load, sorted: the single one, else those of the index.

    Safetensors are preferred to what torch.save wrote, which is named `.bin`. Of a PEFT adapter: its one file.

    Raises:
        InputError: the index is malformed, or names a file outside the directory.
    """
    if (directory / ADAPTER_CONFIG).exists():
        return [directory / next((name for name in ADAPTER_WEIGHTS if (directory / name).exists()), ADAPTER_WEIGHTS[0])]
    first = next((name for name in WEIGHTS if (directory / name).exists()), INDEX)
    if first in (SINGLE, BIN):
        return [directory / first]
    index, suffix = directory / first, ".safetensors" if first == INDEX else ".bin"
    try:
        names = {str(name) for name in load_json(index.read_bytes())["weight_map"].values()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"{index} is not a readable index of shards", "Copy the directory again") from error
    for name in names:
        if Path(name).name != name or "\\" in name or not name.endswith(suffix) or len(name) > MAX_NAME:
            raise InputError(
                f"{index} names {name!r}, which is no {suffix} file in that directory",
                "Write the model again with save_pretrained",
            )
    if not names:
        raise InputError(f"{index} names no weights", "Write the model again with save_pretrained")
    return [directory / name for name in sorted(names)]
