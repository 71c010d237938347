"""Files that torch wrote before version 1.6: pickles in a row, then raw storages. Checked before anything is allocated.

Five pickles (a magic number, a protocol, facts about the machine, the object, the order of its storages) stand before
the storages, each of which begins with the number of its elements. Unlike a zip archive this has no table, so the
object is first rebuilt without torch, from inert stand-ins that only note what is claimed.
"""

from __future__ import annotations

import os
import pickle
from collections import OrderedDict
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import IO, Any

import torch

from redteam.checkpoints.archive import read_archive, read_shapes, refuse_claims
from redteam.checkpoints.identify import DOWNLOAD_AGAIN, SAVE_WEIGHTS, Kind, identify
from redteam.checkpoints.pickles import CRAFTED, REBUILDS, instructions, refuse_globals, refuse_rebuild
from redteam.errors import InputError

PROTOCOL = 1001
MAX_DIMENSIONS = 64  # of torch itself; the product of a million sizes takes minutes
PICKLES = ("magic number", "protocol", "machine", "object", "storages")
ITEM_SIZES = {
    "torch.DoubleStorage": 8, "torch.FloatStorage": 4, "torch.HalfStorage": 2, "torch.BFloat16Storage": 2,
    "torch.LongStorage": 8, "torch.IntStorage": 4, "torch.ShortStorage": 2, "torch.CharStorage": 1,
    "torch.ByteStorage": 1, "torch.BoolStorage": 1,
}  # fmt: skip
ORDERED = "collections.OrderedDict"
GLOBALS = {*ITEM_SIZES, ORDERED, *(f"torch._utils.{name}" for name in REBUILDS)}
# Instructions that a state dict needs. What is left out could make objects, or reach them by number.
INSTRUCTIONS = {
    "PROTO", "STOP", "MARK", "GLOBAL", "REDUCE", "BUILD", "BINPERSID",
    "EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE", "SETITEM", "SETITEMS", "APPEND", "APPENDS", "LIST", "DICT",
    "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "NONE", "NEWTRUE", "NEWFALSE",
    "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING", "BINSTRING",
    "BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET",
}  # fmt: skip


class _Storage:
    """A stand-in: what a storage claims to be. A pickle can neither make nor change one."""

    __slots__ = ("elements", "item_size", "key")

    def __init__(self, key: str, elements: int, item_size: int) -> None:
        self.key, self.elements, self.item_size = key, elements, item_size

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError("a storage has no state")


class _Inert(pickle.Unpickler):
    """Rebuilds an object from stand-ins, and notes its storages. What it may name has been checked before."""

    def __init__(self, path: Path, file: IO[bytes], storages: dict[str, _Storage]) -> None:
        super().__init__(file, encoding="latin1")
        self.path, self.storages = path, storages

    def find_class(self, module: str, name: str) -> Any:
        place = f"{module}.{name}"
        if place == ORDERED:
            return OrderedDict
        return ITEM_SIZES.get(place, self._parameter if name == "_rebuild_parameter" else self._tensor)

    def persistent_load(self, given: Any) -> _Storage:
        """Notes a storage: ("storage", type, key, location, elements, view)."""
        kind, item_size, key, _location, elements, *view = given
        if kind != "storage" or view not in ([], [None]):
            raise InputError(f"{self.path} holds views of storages, as torch wrote them before 0.4", SAVE_WEIGHTS)
        found = _Storage(str(key), int(elements), int(item_size))
        before = self.storages.setdefault(found.key, found)
        alike = (before.elements, before.item_size) == (found.elements, found.item_size)
        if found.elements < 0 or found.item_size not in ITEM_SIZES.values() or not alike:
            raise InputError(f"{self.path} says two things of its storage {found.key[:40]!r}", CRAFTED)
        return before

    def _tensor(self, storage: _Storage, offset: int, size: Any, stride: Any, *_: Any) -> None:
        """Refuses a tensor that reaches beyond its storage, which torch would make larger to hold it."""
        if len(size) > MAX_DIMENSIONS:
            raise InputError(f"{self.path}: a tensor has {len(size)} dimensions", CRAFTED)
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if min((offset, *size, *stride)) < 0 or (prod(size) and last >= storage.elements):
            raise InputError(
                f"{self.path}: a tensor of sizes {str(tuple(size))[:80]} reaches beyond the {storage.elements}"
                " elements that are stored",
                CRAFTED,
            )

    def _parameter(self, *_: Any) -> None:
        """A parameter is its tensor."""


def read_legacy(path: Path) -> Any:
    """Loads a file that torch wrote before version 1.6, if it holds tensors and primitives only.

    Args:
        path: a file that `identify` called `Kind.LEGACY`.

    Returns:
        The object that was saved; its tensors are dense and on the CPU.

    Raises:
        InputError: it is damaged, needs code, or claims more than it holds.
    """
    try:
        with path.open("rb") as file:
            sizes = _refuse_crafted(path, file)
    except InputError:
        raise
    except Exception as error:  # a crafted pickle can make the unpickler raise anything
        raise InputError(f"{path} is a damaged checkpoint ({type(error).__name__})", DOWNLOAD_AGAIN) from error
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch's own message is left out: it advises to switch the protection off
        raise InputError(
            f"{path} cannot be read as a torch checkpoint ({type(error).__name__})", DOWNLOAD_AGAIN
        ) from error
    refuse_claims(path, loaded, sizes)
    return loaded


def read_torch(path: Path, *, shapes: bool = False) -> Any:
    """Loads what torch.save wrote, in whichever of its two forms.

    Args:
        path: a file that `identify` called `Kind.TORCH` or `Kind.LEGACY`.
        shapes: whether dtypes and shapes are enough; a legacy file is read all the same, it has no table of them.

    Raises:
        InputError: as `read_archive` and `read_legacy`.
    """
    if identify(path) is Kind.LEGACY:
        return read_legacy(path)
    return read_shapes(path) if shapes else read_archive(path)


def _refuse_crafted(path: Path, file: IO[bytes]) -> set[int]:
    """Checks all that can be checked without torch. Returns the sizes of the storages in bytes."""
    for title in PICKLES:
        _refuse_instructions(path, title, file)
    start, storages = file.tell(), dict[str, _Storage]()
    file.seek(0)
    _magic, protocol, _machine, _held, keys = [_Inert(path, file, storages).load() for _ in PICKLES]
    if protocol != PROTOCOL or file.tell() != start:
        raise InputError(f"{path} is of protocol {str(protocol)[:40]}, not {PROTOCOL}", SAVE_WEIGHTS)
    _refuse_storages(path, file, [str(key) for key in keys], storages)
    return {storage.elements * storage.item_size for storage in storages.values()}


def _refuse_instructions(path: Path, title: str, file: IO[bytes]) -> None:
    for number, (name, argument) in enumerate(instructions(path, file)):
        if name not in INSTRUCTIONS:
            raise InputError(f"{path} is a pickled Python object (its {title} needs {name})", SAVE_WEIGHTS)
        if name == "GLOBAL":
            module, _, last = str(argument).partition(" ")
            if module == "torch._utils":
                refuse_rebuild(path, last)
            if f"{module}.{last}" not in GLOBALS:
                refuse_globals(path, [f"{module}.{last}"])
        if name.endswith("BINPUT") and not 0 <= argument <= number:  # room is made for all numbers up to it
            raise InputError(f"{path} numbers its objects up to {argument}", CRAFTED)


def _refuse_storages(path: Path, file: IO[bytes], keys: list[str], storages: Mapping[str, _Storage]) -> None:
    """Checks that each storage is there, with the elements that the object says it has."""
    if sorted(keys) != sorted(storages):
        raise InputError(f"{path} lists other storages than its tensors have", CRAFTED)
    for storage in (storages[key] for key in keys):
        stored = int.from_bytes(file.read(8), "little", signed=True)
        if stored != storage.elements:
            raise InputError(f"{path} stores {stored} elements, where {storage.elements} are claimed", CRAFTED)
        file.seek(stored * storage.item_size, os.SEEK_CUR)
    size = path.stat().st_size
    if file.tell() > size:
        raise InputError(f"{path} is truncated: it needs {file.tell()} bytes and has {size}", DOWNLOAD_AGAIN)
