"""The header of a GGUF file: metadata, and names, types and places of tensors, read and checked without the weights.

The format is that of ggml, https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from math import prod
from pathlib import Path
from typing import Any

from redteam.checkpoints.header import TensorEntry
from redteam.errors import InputError

MAGIC = b"GGUF"
VERSIONS = (2, 3)
# Values of one size, by the number of their type, as `struct` spells them; beside them there are strings and arrays.
FIXED = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
STRING, ARRAY = 8, 9
# Name, elements and bytes of a block, by the number of its type: all that the package gguf turns into float32.
TYPES = {
    **{0: ("F32", 1, 4), 1: ("F16", 1, 2), 30: ("BF16", 1, 2)},
    **{2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22), 7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34)},
    **{10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110), 12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176)},
    **{14: ("Q6_K", 256, 210), 16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98)},
    **{19: ("IQ1_S", 256, 50), 20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82)},
    **{23: ("IQ4_XS", 256, 136), 29: ("IQ1_M", 256, 56), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66)},
    **{39: ("MXFP4", 32, 17), 40: ("NVFP4", 64, 36)},
}
TOKENS, SPECIAL = "tokenizer.ggml.tokens", "tokenizer.ggml.token_type"
CONTROL, OWN = 3, 4  # types of tokens: those of the model's maker, and the user's
PACKAGE = "gguf"  # which turns blocks into numbers
INSTALL = "Install it: pip install 'unlearning-redteam[gguf]'"
MAX_NAME = 65_535  # bytes of a key or the name of a tensor; as the format says of keys
MAX_DIMENSIONS = 4
MAX_KEYS, MAX_TENSORS = 2_000, 5_000  # the largest known models have fifty and fifteen hundred
MAX_LISTED = 30_000  # values in arrays of keys that are not the tokenizer's
MAX_VALUES, PER_VALUE = 200_000, 64  # values in arrays: so many, and one more for so many bytes of the file
MOST_VALUES = 4_000_000  # in any file; the largest known vocabularies have two
MAX_TOKEN, MAX_TOKENS = 1_024, 2**22  # bytes of a token, and of all together; the largest known have half of that
MAX_DIVIDED = 2**31  # the one times the other: tokens are divided at every byte, so that this is what it takes
MAX_SPECIAL = 20_000  # tokens that are found in a text before it is divided; the most known are six thousand
MAX_LAYERS = 200  # the most known are 126
REMEDY = "Download or copy the file again"


@dataclass(frozen=True, slots=True)
class Array:
    """An array in the metadata, of which only this is read.

    Attributes:
        kind: number of the type of its values.
        count: number of them.
        begin: where they begin in the file.
        size: bytes that they take.
        longest: bytes of the longest text among them.
    """

    kind: int
    count: int
    begin: int
    size: int
    longest: int = 0


@dataclass(frozen=True, slots=True)
class Stored:
    """Where a tensor lies.

    Attributes:
        kind: number of the type of its blocks, see `TYPES`.
        shape: sizes of its dimensions in the order of torch, the last contiguous.
        begin: its first byte in the file.
        size: number of its bytes.
    """

    kind: int
    shape: tuple[int, ...]
    begin: int
    size: int


@dataclass(frozen=True, slots=True)
class GGUFHeader:
    """What a GGUF file says of itself.

    Attributes:
        metadata: numbers, texts and arrays by key.
        raw: the bytes of each of them in the file, key and type included.
        tensors: by name.
    """

    metadata: Mapping[str, Any]
    raw: Mapping[str, tuple[int, int]]
    tensors: Mapping[str, Stored]

    @property
    def architecture(self) -> str:
        """What the format calls the kind of model."""
        return str(self.metadata["general.architecture"])

    def of_architecture(self, key: str) -> Any:
        """Returns what the metadata say of this architecture under `key`; None if nothing."""
        return self.metadata.get(f"{self.architecture}.{key}")

    @property
    def entries(self) -> dict[str, TensorEntry]:
        """Dtypes, as the format spells them, and shapes by name."""
        return {name: TensorEntry(TYPES[stored.kind][0], stored.shape) for name, stored in self.tensors.items()}


class _Cursor:
    """Reads a file from front to back, and never behind its end."""

    def __init__(self, held: mmap.mmap) -> None:
        self.held, self.place, self.values = held, 4, 0
        self.most = min(MOST_VALUES, MAX_VALUES + len(held) // PER_VALUE)

    def skip(self, size: int) -> int:
        """Passes over bytes, and returns where they begin."""
        begin = self.place
        if size > len(self.held) - begin:
            raise ValueError(f"it is cut off, or says that {size} bytes follow at byte {begin}")
        self.place += size
        return begin

    def number(self, form: str) -> Any:
        return struct.unpack_from(form, self.held, self.skip(struct.calcsize(form)))[0]

    def text(self, most: int) -> str:
        size = self.number("<Q")
        begin = self.skip(size)
        if size > most:
            raise ValueError(f"it has a name or text of {size} bytes")
        return self.held[begin : self.place].decode()  # a UnicodeDecodeError is a ValueError

    def value(self) -> Any:
        """Reads a number, a text or how long an array is."""
        kind = self.number("<I")
        if kind in FIXED:
            return self.number(FIXED[kind])
        if kind == STRING:
            return self.text(len(self.held))
        if kind != ARRAY:
            raise ValueError(f"it has a value of type {kind}")
        kind, count = self.number("<I"), self.number("<Q")
        self.values += count
        if self.values > self.most:
            raise ValueError(f"it has {self.values} values in arrays")
        begin, longest = self.place, 0
        if kind in FIXED:
            self.skip(count * struct.calcsize(FIXED[kind]))
        elif kind == STRING:
            for _ in range(count):
                size = self.number("<Q")
                self.skip(size)
                longest = max(longest, size)
        else:
            raise ValueError(f"it has an array of type {kind}")
        return Array(kind, count, begin, self.place - begin, longest)


def of_tokenizer(key: str) -> bool:
    """Returns whether a key of the metadata is the tokenizer's."""
    return key.startswith("tokenizer.")


def gguf_installed() -> bool:
    """Returns whether the package is there; it is not imported."""
    return find_spec(PACKAGE) is not None


def read_gguf(path: Path) -> GGUFHeader:
    """Reads the header of a GGUF file.

    Raises:
        InputError: the file is truncated, its header is malformed, or it is no whole model.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as held:
            header = _read(_Cursor(held))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} has a malformed GGUF header: {error}", REMEDY) from error
    parts, kind = header.metadata.get("split.count", 1), header.metadata.get("general.type", "model")
    if parts not in (0, 1):
        raise InputError(f"{path} is one of {parts} parts", "Make one file of them: llama-gguf-split --merge")
    if kind != "model":
        raise InputError(f"{path} is a GGUF file of type {str(kind)[:40]!r}, no model", "Give the model itself")
    if not header.tensors:
        raise InputError(f"{path} holds no tensors", "Give the model itself, not its vocabulary alone")
    return header


def _read(cursor: _Cursor) -> GGUFHeader:
    version, tensors, pairs = (cursor.number(form) for form in ("<I", "<Q", "<Q"))
    if version not in VERSIONS:
        raise ValueError(f"it is of version {version}; those that can be read are {VERSIONS[0]} and {VERSIONS[1]}")
    metadata, raw = dict[str, Any](), dict[str, tuple[int, int]]()
    if pairs > MAX_KEYS or tensors > MAX_TENSORS:
        raise ValueError(f"it says that it has {pairs} keys and {tensors} tensors")
    for _ in range(pairs):
        begin = cursor.place
        key = cursor.text(MAX_NAME)
        if key in metadata:
            raise ValueError(f"it says {key[:80]!r} twice")
        metadata[key] = cursor.value()
        raw[key] = begin, cursor.place
    _refuse_metadata(metadata, cursor.held)
    return GGUFHeader(metadata, raw, _read_tensors(cursor, tensors, metadata.get("general.alignment", 32)))


def _refuse_metadata(metadata: Mapping[str, Any], held: mmap.mmap) -> None:
    """Refuses what no reader could use, or would take hours over."""
    if not isinstance(metadata.get("general.architecture"), str):
        raise ValueError("it does not say its general.architecture")
    layers = metadata.get(f"{metadata['general.architecture']}.block_count", 0)
    if not isinstance(layers, int) or layers > MAX_LAYERS:
        raise ValueError(f"it describes {str(layers)[:40]} layers")
    others = {key: value for key, value in metadata.items() if isinstance(value, Array) and not of_tokenizer(key)}
    if sum(value.count for value in others.values()) > MAX_LISTED:
        raise ValueError(f"it lists too much, {', '.join(others)[:80]} for instance")
    _refuse_tokens(metadata.get(TOKENS), metadata.get(SPECIAL), held)


def _refuse_tokens(tokens: Any, kinds: Any, held: mmap.mmap) -> None:
    """Refuses tokens that take hours to build a tokenizer of."""
    if isinstance(tokens, Array):
        size = tokens.size - 8 * tokens.count
        if size > MAX_TOKENS or tokens.longest > MAX_TOKEN or size * tokens.longest > MAX_DIVIDED:
            raise ValueError(f"its tokens take {tokens.size} bytes, and one of them {tokens.longest}")
    if isinstance(kinds, Array) and kinds.kind in FIXED:
        said = struct.iter_unpack(FIXED[kinds.kind], held[kinds.begin : kinds.begin + kinds.size])
        special = sum(kind in (CONTROL, OWN) for (kind,) in said)
        if special > MAX_SPECIAL:
            raise ValueError(f"it has {special} special tokens")


def _read_tensors(cursor: _Cursor, count: int, alignment: Any) -> dict[str, Stored]:
    """Reads the table of tensors, which must lie behind it, one after the other."""
    if type(alignment) is not int or not 0 < alignment <= 2**20 or alignment & (alignment - 1):
        raise ValueError(f"it is aligned to {str(alignment)[:40]} bytes")
    table = dict[str, tuple[int, tuple[int, ...], int]]()
    for _ in range(count):
        name = cursor.text(MAX_NAME)
        dimensions = cursor.number("<I")
        if name in table or not 0 < dimensions <= MAX_DIMENSIONS:
            raise ValueError(f"the tensor {name[:80]!r} is there twice, or has {dimensions} dimensions")
        shape = tuple(cursor.number("<Q") for _ in range(dimensions))[::-1]
        table[name] = cursor.number("<I"), shape, cursor.number("<Q")
    data, end = -(-cursor.place // alignment) * alignment, 0
    stored = dict[str, Stored]()
    for name, (kind, shape, offset) in sorted(table.items(), key=lambda item: item[1][2]):
        size = _bytes(name, kind, shape)
        if offset < end or offset % alignment or data + offset + size > len(cursor.held):
            raise ValueError(f"the tensor {name[:80]!r} lies over another, askew, or behind the end of the file")
        stored[name], end = Stored(kind, shape, data + offset, size), offset + size
    return {name: stored[name] for name in table}


def _bytes(name: str, kind: int, shape: tuple[int, ...]) -> int:
    """Returns how many bytes a tensor takes; its rows are whole numbers of blocks."""
    if kind not in TYPES:
        raise ValueError(f"the tensor {name[:80]!r} is of type {kind}, which is no type of weights that is known")
    _, elements, size = TYPES[kind]
    if not all(shape) or shape[-1] % elements:
        raise ValueError(f"the tensor {name[:80]!r} is of the shape {shape}, in blocks of {elements}")
    return prod(shape) // elements * size
