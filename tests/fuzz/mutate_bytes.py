"""Damage that needs no knowledge of a format: flipped, lost, repeated and borrowed bytes, and lengths that lie."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

NUMBERS = (
    *(0, 1, -1, 2, 7, 64, 255, 256, 1000, 65535, 10**5, 10**6),
    *(2**31 - 1, 2**31, -(2**31), 2**32 - 1, 2**32, 2**53, 2**63 - 1, 2**63, -(2**63), 2**64 - 1, 2**64),
    *(10**9, 10**12, 10**18, 10**30, 10**300, 10**4000),
)
LONGEST = 1 << 20  # bytes; a mutant grows by repetition, but not without end

Mutator = Callable[[random.Random, bytes, Sequence[bytes]], bytes]


def span(draw: random.Random, content: bytes, longest: int = 64) -> tuple[int, int]:
    """A place in the content, and one not far behind it."""
    begin = draw.randrange(len(content) + 1)
    return begin, min(len(content), begin + draw.randint(1, longest))


def flip_bits(draw: random.Random, content: bytes, others: Sequence[bytes]) -> bytes:
    changed = bytearray(content)
    for _ in range(draw.randint(1, 8) if changed else 0):
        changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def set_bytes(draw: random.Random, content: bytes, others: Sequence[bytes]) -> bytes:
    changed = bytearray(content)
    for _ in range(draw.randint(1, 4) if changed else 0):
        changed[draw.randrange(len(changed))] = draw.choice((0, 1, 0x7F, 0x80, 0xFF, draw.randrange(256)))
    return bytes(changed)


def truncate(draw: random.Random, content: bytes, others: Sequence[bytes]) -> bytes:
    return content[: draw.randrange(len(content) + 1)]


def behead(draw: random.Random, content: bytes, others: Sequence[bytes]) -> bytes:
    return content[draw.randint(1, 16) :]


def delete(draw: random.Random, content: bytes, others: Sequence[bytes]) -> bytes:
    begin, end = span(draw, content)
    return content[:begin] + content[end:]


def insert(draw: random.Random, content: bytes, others: Sequence[bytes]) -> bytes:
    begin, _ = span(draw, content)
    return content[:begin] + draw.randbytes(draw.randint(1, 64)) + content[begin:]


def repeat(draw: random.Random, content: bytes, others: Sequence[bytes]) -> bytes:
    begin, end = span(draw, content, draw.choice((1, 8, 512)))
    times = min(draw.choice((1, 2, 100, 10_000)), LONGEST // max(1, end - begin))
    return content[:end] + content[begin:end] * times + content[end:]


def swap(draw: random.Random, content: bytes, others: Sequence[bytes]) -> bytes:
    a, b = sorted(draw.randrange(len(content) + 1) for _ in range(2))
    width = draw.randint(1, 32)
    return content[:a] + content[b : b + width] + content[a + width : b] + content[a : a + width] + content[b + width :]


def overwrite_length(draw: random.Random, content: bytes, others: Sequence[bytes]) -> bytes:
    """Puts an extreme number where a length may be: little-endian, at the beginning, at the end, or anywhere."""
    width = draw.choice((1, 2, 4, 8))
    number = draw.choice((*NUMBERS, len(content), len(content) + 1, draw.randrange(len(content) + 1)))
    last = max(0, len(content) - width)
    place = draw.choice((0, min(8, last), draw.randint(max(0, last - 128), last), draw.randint(0, last)))
    return content[:place] + (number % 256**width).to_bytes(width, "little") + content[place + width :]


def zero(draw: random.Random, content: bytes, others: Sequence[bytes]) -> bytes:
    begin, end = span(draw, content, 512)
    return content[:begin] + bytes(end - begin) + content[end:]


def splice(draw: random.Random, content: bytes, others: Sequence[bytes]) -> bytes:
    """Puts a piece of another file into this one."""
    other = draw.choice(others) if others else b""
    begin, end = span(draw, other, draw.choice((16, 512, max(1, len(other)))))
    place, upto = span(draw, content, draw.choice((1, 64, 512)))
    return content[:place] + other[begin:end] + content[upto:]


def append(draw: random.Random, content: bytes, others: Sequence[bytes]) -> bytes:
    return content + draw.choice((b"\0" * draw.randint(1, 4096), draw.randbytes(64), content, b"\n", *others))


def replace_all(draw: random.Random, content: bytes, others: Sequence[bytes]) -> bytes:
    return draw.choice((b"", b"\0", b"{}", b"[]", b"null", *others))


MUTATORS: tuple[Mutator, ...] = (
    *(flip_bits, set_bytes, truncate, behead, delete, insert, repeat, swap),
    *(overwrite_length, overwrite_length, zero, splice, append),
)


def mutate_bytes(draw: random.Random, content: bytes, others: Sequence[bytes] = ()) -> bytes:
    """Returns the content with one kind of damage; once in fifty times, other content altogether."""
    if draw.randrange(50) == 0:
        return replace_all(draw, content, others)
    return draw.choice(MUTATORS)(draw, content, others)
