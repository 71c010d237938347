"""The header of a safetensors file: names, dtypes and shapes, read and checked without the weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from redteam.checkpoints.untrusted import load_json
from redteam.errors import InputError

MAX_HEADER = 100_000_000  # bytes; the limit of the safetensors library itself
REMEDY = "Download or copy the file again"


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor of a safetensors file.

    Attributes:
        dtype: as the format spells it: "F32", "BF16", ...
        shape: sizes of its dimensions.
    """

    dtype: str
    shape: tuple[int, ...]


def starts_like_safetensors(head: bytes) -> bool:
    """Tells whether a file that starts with `head` is meant as safetensors: a length, then a JSON object."""
    return len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**40


def read_header(path: Path) -> dict[str, TensorEntry]:
    """Reads the header of a safetensors file.

    Returns:
        The tensors by name.

    Raises:
        InputError: the file is truncated, or its header is malformed.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > MAX_HEADER:
            raise InputError(f"{path} has a malformed safetensors header of {length} bytes", REMEDY)
        if size < 8 + length:
            raise InputError(f"{path} is truncated: its header alone has {length} bytes, the file has {size}", REMEDY)
        raw = file.read(length)
    needed = 8 + length + _last_offset(raw, path)
    if size < needed:  # which may have thousands of digits
        raise InputError(f"{path} is truncated: its header says {min(needed, 2**63)} bytes, it has {size}", REMEDY)
    try:
        with safe_open(str(path), framework="np") as opened:
            names = opened.keys()
            slices = {name: opened.get_slice(name) for name in names}
            return {name: TensorEntry(str(part.get_dtype()), tuple(part.get_shape())) for name, part in slices.items()}
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{path} has a malformed safetensors header ({error})", REMEDY) from error


def read_metadata(path: Path) -> dict[str, str]:
    """Returns the text that a safetensors file carries beside its tensors, by key; `read_header` has checked it."""
    with safe_open(str(path), framework="np") as opened:
        return dict(opened.metadata() or {})


def _last_offset(raw: bytes, path: Path) -> int:
    """Returns where the data ends, in bytes after the header; the library checks everything else."""
    try:
        header = load_json(raw)
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        return max((int(end) for end in ends), default=0)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError) as error:
        raise InputError(f"{path} has a malformed safetensors header", REMEDY) from error
