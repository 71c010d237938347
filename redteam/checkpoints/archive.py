"""Torch zip archives (`torch.save`): checked before anything in them is executed or allocated.

`weights_only` stops code but not size: a 66 KB file can inflate to 64 MB, and a tensor of stride 0 can claim
10^12 elements in 1.5 KB. So the archive's table, the pickle's globals and every tensor's size are checked first.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from redteam.checkpoints.identify import DOWNLOAD_AGAIN, SAVE_WEIGHTS, zip_table
from redteam.checkpoints.pickles import (
    CRAFTED,
    MAX_PICKLE,
    REBUILDS,
    instructions,
    refuse_globals,
    refuse_rebuild,
)
from redteam.errors import InputError

MAX_ENTRIES, MAX_NAME = 100_000, 200  # of a name as many characters as are shown
ENCODE = "_codecs encode"  # makes bytes of a text
PLAIN = {"collections OrderedDict", "collections Counter", "__builtin__ set", "__builtin__ complex", ENCODE}
# Codecs by which `encode` takes a minute for some kilobytes, or makes the name of such a one; torch.save writes latin1.
SLOW = re.compile(r"[\W_]*(punycode|idna|rot[\W_]*13)[\W_]*", re.IGNORECASE)
MAX_SHARING = 4  # all tensors together may claim this many times the file: tied weights and a second copy


def read_archive(path: Path) -> Any:
    """Loads a torch zip archive that holds tensors and primitives only.

    Args:
        path: a file that `identify` called `Kind.TORCH`.

    Returns:
        The object that was saved; its tensors are on the CPU, dense, and lie in a private mapping of the file.

    Raises:
        InputError: as `read_shapes`.
    """
    read_shapes(path)
    return _load(path, "cpu")


def read_shapes(path: Path) -> Any:
    """Loads a torch zip archive without its weights.

    Args:
        path: a file that `identify` called `Kind.TORCH`.

    Returns:
        The object that was saved; its tensors, on the meta device, have dtypes and shapes and no content.

    Raises:
        InputError: the archive is damaged, needs code, or claims more than it holds.
    """
    record_sizes, pickle = _read_table(path)
    _refuse_globals(path, pickle)
    loaded = _load(path, "meta")
    refuse_claims(path, loaded, record_sizes)
    return loaded


def refuse_claims(path: Path, loaded: Any, record_sizes: set[int]) -> None:
    """Refuses what was loaded if its tensors claim more than the file has.

    Args:
        path: of the file.
        loaded: from it, on any device.
        record_sizes: bytes of the storages that the file has.

    Raises:
        InputError: a tensor is not dense, or one of them, or all together, claim too much.
    """
    claimed = sum(_claimed_bytes(path, name, tensor, record_sizes) for name, tensor in tensors_in(loaded))
    if claimed > MAX_SHARING * path.stat().st_size:
        raise InputError(f"{path} holds tensors that claim {claimed} bytes, more than it has", CRAFTED)


def tensors_in(loaded: Any) -> Iterator[tuple[str, Tensor]]:
    """Yields the tensors anywhere in nested mappings and sequences, each with the last key on the way to it."""
    seen: set[int] = set()
    waiting = [("the top level", loaded)] if _may_hold_tensors(loaded) else []
    while waiting:  # a stack and a set, not recursion: a crafted pickle may nest deeply or contain itself
        name, value = waiting.pop()
        if isinstance(value, Tensor):
            yield name, value
        elif id(value) not in seen:
            seen.add(id(value))
            items = value.items() if isinstance(value, Mapping) else ((name, part) for part in value)
            waiting.extend((str(key)[:MAX_NAME], part) for key, part in items if _may_hold_tensors(part))


def _may_hold_tensors(value: Any) -> bool:
    return isinstance(value, Tensor) or (isinstance(value, Mapping | list | tuple | set) and len(value) > 0)


def _read_table(path: Path) -> tuple[set[int], bytes]:
    """Checks the archive's table of contents.

    Returns:
        The sizes of its storages in bytes, and its pickle.
    """
    size = path.stat().st_size
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            _refuse_entries(path, entries, size)
            if archive.start_dir != zip_table(path)[0]:
                # Python looks for the table right before the end, torch where the end says.
                raise InputError(f"{path} has a table of contents that is not where it says", CRAFTED)
            root = entries[0].filename.split("/")[0]
            record = next(entry for entry in entries if entry.filename == f"{root}/data.pkl")
            if record.file_size > MAX_PICKLE:
                raise InputError(f"{path} has a pickle of {record.file_size} bytes", SAVE_WEIGHTS)
            pickle = archive.read(record)
    except InputError:
        raise
    except Exception as error:  # zipfile raises whatever its parser stumbles over in hostile bytes
        raise InputError(f"{path} is a damaged zip archive", DOWNLOAD_AGAIN) from error
    return {entry.file_size for entry in entries if "/data/" in entry.filename}, pickle


def _refuse_entries(path: Path, entries: list[zipfile.ZipInfo], size: int) -> None:
    names = [entry.filename for entry in entries]
    if len(names) > MAX_ENTRIES:
        raise InputError(f"{path} has {len(names)} entries, more than {MAX_ENTRIES}", SAVE_WEIGHTS)
    if len({name.lower() for name in names}) != len(names):  # torch makes no difference between large and small
        raise InputError(f"{path} has two entries of one name", CRAFTED)
    root = names[0].split("/")[0]
    for entry in entries:
        parts = entry.filename.split("/")
        if parts[0] != root or ".." in parts or "\\" in entry.filename:
            raise InputError(f"{path} has an entry outside its folder: {entry.filename!r}", CRAFTED)
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
            raise InputError(
                f"{path} has compressed entries ({entry.filename}), which torch.save never writes",
                SAVE_WEIGHTS,
            )
        if entry.file_size != entry.compress_size or entry.header_offset + entry.file_size > size:
            raise InputError(f"{path} says {entry.filename} has {entry.file_size} bytes", CRAFTED)
    if sum(entry.file_size for entry in entries) > size:
        raise InputError(f"{path} has entries that overlap", CRAFTED)


def _refuse_globals(path: Path, pickle: bytes) -> None:
    """Refuses a pickle that needs anything but dense tensors; nothing is executed to find out."""
    try:
        names, slow = set[str](), False
        for name, argument in instructions(path, io.BytesIO(pickle)):
            if name == "GLOBAL":
                names.add(str(argument))
            slow = slow or (isinstance(argument, str) and SLOW.fullmatch(argument) is not None)
        unsafe = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except InputError:
        raise
    except Exception as error:  # a crafted pickle can make the disassembler raise anything
        raise InputError(f"{path} has a malformed pickle", DOWNLOAD_AGAIN) from error
    refuse_globals(path, unsafe)
    for name in sorted(name.split()[-1] for name in names if name.split()):
        refuse_rebuild(path, name)
    names -= {name for name in names if _is_plain(name) and not (slow and name == ENCODE)}
    refuse_globals(path, sorted(name.replace(" ", ".") for name in names))


def _is_plain(name: str) -> bool:
    """Tells whether a global is one that weights and the state of a training need: torch allows more.

    With `bytearray` or `torch.FloatTensor`, a number makes room for as many elements.
    """
    module, _, last = name.partition(" ")
    if module == "torch._utils":
        return last in REBUILDS
    if module == "torch":
        dtype = isinstance(getattr(torch, last, None), torch.dtype)
        return dtype or last.endswith("Storage") or last in ("Size", "device")
    return name in PLAIN


def _claimed_bytes(path: Path, name: str, tensor: Tensor, record_sizes: set[int]) -> int:
    """Returns the bytes that a tensor would take by itself, refusing more than its storage has."""
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_nested:
        raise InputError(f"{path}: {name} is not a dense tensor", "Save dense tensors: tensor.to_dense()")
    size, storage = tensor.element_size(), tensor.untyped_storage().nbytes()
    wanted = tensor.numel() * size
    last = tensor.storage_offset() + sum((n - 1) * step for n, step in zip(tensor.shape, tensor.stride(), strict=True))
    if max(wanted, (last + 1) * size if wanted else 0) > storage:
        raise InputError(f"{path}: {name} claims {max(wanted, (last + 1) * size)} bytes but stores {storage}", CRAFTED)
    if storage and storage not in record_sizes:
        raise InputError(f"{path}: {name} claims a storage of {storage} bytes that is not there", CRAFTED)
    return wanted


def _load(path: Path, device: str) -> Any:
    try:
        return torch.load(path, map_location=device, mmap=True, weights_only=True)
    except Exception as error:
        # The text of torch's own message is left out: it advises to switch the protection off.
        raise InputError(
            f"{path} cannot be read as a torch checkpoint ({type(error).__name__})", DOWNLOAD_AGAIN
        ) from error
