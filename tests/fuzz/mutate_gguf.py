"""GGUF headers whose counts, lengths, types and places lie."""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace

from mutate_bytes import NUMBERS, mutate_bytes
from mutate_text import MODEL_TYPES, PATHS, STRINGS

SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # bytes of numbers by their type
ARCHITECTURES = (
    *MODEL_TYPES,
    "llama",
    "clip",
    "qwen2moe",
    "qwen35",
    "gpt-oss",
    "mistral",
    "gemma4",
    "deci",
    "l",
    ".",
    "",
)
LARGE = tuple(number for number in NUMBERS if 0 <= number < 2**64)
Pair = tuple[bytes, int, bytes]


@dataclass(frozen=True)
class Tensor:
    name: bytes
    dimensions: tuple[int, ...]
    kind: int
    offset: int
    said: int  # how many dimensions it says that it has

    def __bytes__(self) -> bytes:
        sizes = [(size % 2**64).to_bytes(8, "little") for size in self.dimensions]
        place = struct.pack("<IQ", self.kind % 2**32, self.offset % 2**64)
        return text(self.name) + struct.pack("<I", self.said % 2**32) + b"".join(sizes) + place


def text(content: bytes) -> bytes:
    return len(content).to_bytes(8, "little") + content


def parsed(content: bytes) -> tuple[list[Pair], list[Tensor], bytes]:
    """Returns keys, types and values; the table of tensors; and all that follows."""
    _, tensors, pairs = struct.unpack_from("<IQQ", content, 4)
    place = 24

    def take(size: int) -> bytes:
        nonlocal place
        place += size
        if place > len(content):
            raise ValueError("it is damaged already")
        return content[place - size : place]

    def number(size: int) -> int:
        return int.from_bytes(take(size), "little")

    def value(kind: int) -> bytes:
        begin = place
        if kind == 8:
            take(number(8))
        elif kind == 9:
            inner, count = number(4), number(8)
            for _ in range(count):
                value(inner)
        else:
            take(SIZES[kind])
        return content[begin:place]

    table = list[Tensor]()
    held = [(take(number(8)), kind := number(4), value(kind)) for _ in range(pairs)]
    for _ in range(tensors):
        name, said = take(number(8)), number(4)
        table.append(Tensor(name, tuple(number(8) for _ in range(said)), number(4), number(8), said))
    return held, table, content[-(-place // 32) * 32 :]


def written(pairs: Sequence[Pair], table: Sequence[Tensor], data: bytes, said: tuple[int, int, int]) -> bytes:
    """Writes a file; `said` is the version, and the numbers of tensors and of keys."""
    front = b"GGUF" + struct.pack("<IQQ", *said)
    front += b"".join(text(key) + struct.pack("<I", kind % 2**32) + value for key, kind, value in pairs)
    front += b"".join(bytes(tensor) for tensor in table)
    return front + bytes(-len(front) % 32) + data


def changed_value(draw: random.Random, pair: Pair) -> Pair:
    """Returns the pair with another value, or what is one only for another type."""
    key, kind, value = pair
    if draw.randrange(8) == 0:
        return key, draw.choice((*SIZES, 8, 9, 13, 2**32 - 1)), value
    if draw.randrange(8) == 0:
        return key, 8, text(draw.choice((*STRINGS, *ARCHITECTURES)).encode("utf-8", "surrogatepass"))
    if kind in SIZES:
        number = draw.choice((*NUMBERS, draw.randrange(300)))
        return key, kind, (number % 256 ** len(value)).to_bytes(len(value), "little")
    if kind == 8:
        return key, kind, text(draw.choice((draw.choice(ARCHITECTURES).encode(), mutate_bytes(draw, value[8:]))))
    inner, count = struct.unpack_from("<IQ", value)
    if draw.randrange(3) == 0:
        return (
            key,
            kind,
            struct.pack("<IQ", draw.choice((inner, *range(14))), draw.choice((*LARGE, count + 1))) + value[12:],
        )
    return key, kind, value[:12] + mutate_bytes(draw, value[12:])


def added(draw: random.Random) -> Pair:
    """Returns a key that says much of a model or a tokenizer."""
    count = draw.choice((0, 1, 1000, 10**5))
    listed = struct.pack("<IQ", 0, count) + bytes(count)
    number = struct.pack("<I", draw.choice((0, 1, 2, 3, 7, 2**31, 2**32 - 1)))
    keys = ("rope.dimension_count", "expert_count", "vocab_size", "attention.head_count_kv", "attention.key_length")
    return draw.choice(
        (
            (b"general.alignment", 4, number),
            (b"split.count", 2, b"\3\0"),
            (b"general.type", 8, text(b"adapter")),
            (b"GGUF.version", 4, number),
            (b"general.architecture", 8, text(b"gpt2")),
            *(((f"llama.{key}").encode(), 4, number) for key in keys),
            *(((f"llama.{key}").encode(), 9, listed) for key in keys),
            (draw.choice(PATHS).encode(), 8, text(b"\xff")),
            (b"tokenizer.chat_template", 8, text(b"{{ x }}" * count)),
            (b"tokenizer.ggml.precompiled_charsmap", 9, struct.pack("<IQ", 0, 4) + b"\xff\xff\xff\x7f"),
            (b"x", 9, struct.pack("<IQIQIQ", 9, 1, 9, 1, 9, 1)),
        )
    )


def changed_tensor(draw: random.Random, tensor: Tensor, others: Sequence[Tensor], size: int) -> Tensor:
    """Returns the tensor with another name, shape, type or place."""
    sizes = list(tensor.dimensions)
    sizes[draw.randrange(len(sizes))] = draw.choice((*LARGE, 31, 64))
    more = (*tensor.dimensions, draw.choice((0, 1, 2, *LARGE)))
    other = draw.choice(others)
    return draw.choice(
        (
            replace(tensor, name=draw.choice((other.name, mutate_bytes(draw, tensor.name), b"", b"x" * 5000))),
            replace(tensor, kind=draw.choice((*range(45), 2**32 - 1))),
            replace(tensor, offset=draw.choice((*LARGE, other.offset, size, size - 32, 16))),
            replace(tensor, said=draw.choice((0, 1, 3, 4, 5, 2**32 - 1))),
            replace(tensor, dimensions=more, said=len(more)),
            replace(tensor, dimensions=tensor.dimensions[::-1]),
            replace(tensor, dimensions=tuple(sizes)),
        )
    )


def mutate_gguf(draw: random.Random, content: bytes, others: Sequence[bytes] = ()) -> bytes:
    """Changes a key, a tensor or a count of the header, and mostly leaves the rest as it must be."""
    pairs, table, data = parsed(content)
    said = [3, 0, 0]
    for _ in range(draw.choice((1, 1, 2))):
        kind, pair, row = draw.randrange(12), draw.randrange(len(pairs)), draw.randrange(len(table))
        if kind < 4:
            pairs[pair] = changed_value(draw, pairs[pair])
        elif kind < 7:
            table[row] = changed_tensor(draw, table[row], table, len(data))
        elif kind == 7:
            pairs.insert(draw.randrange(len(pairs) + 1), added(draw))
        elif kind == 8:
            pairs.insert(pair, draw.choice((pairs[pair], (mutate_bytes(draw, pairs[pair][0]), *pairs[pair][1:]))))
        elif kind == 9:
            del pairs[pair]
        elif kind == 10:
            table[row : row + 1] = draw.choice(([], [table[row]] * 2, [table[row]] * 10_000))
        else:
            said[draw.randrange(3)] = draw.choice((*LARGE, 4))
    counts = (said[0] % 2**32, said[1] or len(table), said[2] or len(pairs))
    return written(pairs, table, data, counts)
