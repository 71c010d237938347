"""Pickles, taken apart without being run."""

from __future__ import annotations

import pickletools
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from redteam.checkpoints.identify import SAVE_WEIGHTS
from redteam.errors import InputError

MAX_PICKLE = 64 * 2**20  # bytes; unpickled objects take many times the room of their pickle
MAX_INSTRUCTIONS = 1_000_000  # twenty thousand tensors; to take more apart would take long
REBUILDS = {"_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_parameter"}
CRAFTED = "torch.save does not write such a file: do not trust it"


def instructions(path: Path, file: IO[bytes]) -> Iterator[tuple[str, Any]]:
    """Yields the instructions of the pickle at a file's position, each as name and argument, and leaves it behind them.

    Raises:
        InputError: there are more than a checkpoint needs.
        ValueError: the bytes are no pickle.
    """
    begin = file.tell()
    for number, (instruction, argument, _) in enumerate(pickletools.genops(file)):
        if number >= MAX_INSTRUCTIONS or file.tell() - begin > MAX_PICKLE:
            raise InputError(f"{path} has a pickle of more than {MAX_INSTRUCTIONS} instructions", SAVE_WEIGHTS)
        yield instruction.name, argument


def refuse_rebuild(path: Path, name: str) -> None:
    """Refuses a global of `torch._utils` that rebuilds another than a dense tensor.

    Sparse, nested, quantised and wrapped tensors run far more of torch's C++ than weights ever need.
    """
    if "_rebuild_" in name and name not in REBUILDS:
        kind = name.removeprefix("_rebuild_").replace("_", " ")
        raise InputError(f"{path} holds tensors that are not dense ({kind})", "Save dense tensors: tensor.to_dense()")


def refuse_globals(path: Path, names: list[str]) -> None:
    """Refuses a pickle that needs these: they are what makes it an object and not weights."""
    if names:
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        raise InputError(
            f"{path} is a pickled Python object (needs {', '.join(names[:3])[:600]}{more}), not a state dict",
            SAVE_WEIGHTS,
        )
