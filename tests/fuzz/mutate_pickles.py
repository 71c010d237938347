"""Pickles with instructions put in, taken out, moved and changed. Those of `EXECUTING` run code where they are loaded.

Others do harm without any: they fill the memory, the stack or the day.
"""

from __future__ import annotations

import io
import pickletools
import random
import struct
from collections.abc import Sequence
from itertools import pairwise

from mutate_bytes import NUMBERS
from mutate_text import MARKER, PATHS, STRINGS

WIDE = "".join(chr(0x4E00 + 7 * n % 20_000) for n in range(12_000))
TOUCH, WRITE = f"touch {MARKER}", f"open({MARKER!r}, 'w').close()"


def text(held: str) -> bytes:
    """Pushes a string, as protocol 2 does."""
    encoded = held.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def short(held: str) -> bytes:
    """Pushes a string, as protocol 4 does."""
    return b"\x8c" + bytes([len(held)]) + held.encode()


def integer(number: int) -> bytes:
    """Pushes an integer in the shortest way that protocol 2 has for it."""
    if 0 <= number < 256:
        return b"K" + bytes([number])
    if -(2**31) <= number < 2**31:
        return b"J" + struct.pack("<i", number)
    width = number.bit_length() // 8 + 1
    encoded = number.to_bytes(width, "little", signed=True)
    return b"\x8a" + bytes([width]) + encoded if width < 256 else b"\x8b" + struct.pack("<i", width) + encoded


def called(module: str, name: str, *arguments: bytes) -> bytes:
    """Pushes what a function returns."""
    return f"c{module}\n{name}\n".encode() + b"(" + b"".join(arguments) + b"tR"


# Each runs code where it is unpickled without protection, and pushes one thing.
EXECUTING = (
    called("posix", "system", text(TOUCH)),
    called("os", "system", text(TOUCH)),
    called("builtins", "exec", text(WRITE)),
    called("__builtin__", "eval", text(WRITE)),
    called("subprocess", "getoutput", text(TOUCH)),
    called("_io", "open", text(MARKER), text("w")),
    called("evil", "touch"),
    short("posix") + short("system") + b"\x93" + b"(" + text(TOUCH) + b"tR",
    b"(" + text(TOUCH) + b"iposix\nsystem\n",
    b"(cposix\nsystem\n" + text(TOUCH) + b"o",
    called("importlib", "import_module", text("evil")),
    b"cfunctools\npartial\n(cposix\nsystem\n" + text(TOUCH) + b"tR)R",
)


def laughs(levels: int) -> bytes:
    """Pushes a tuple that holds twice what holds twice what holds twice, and so on: small, but endless to walk."""
    doubled = b"".join(2 * (b"h" + bytes([n])) + b"\x86q" + bytes([n + 1]) + b"0" for n in range(levels))
    return b")q\x000" + doubled + b"h" + bytes([levels])


def collisions(count: int) -> bytes:
    """Pushes a dict whose keys all have the same hash."""
    prime = 2**61 - 1
    return b"}(" + b"".join(integer(n * prime) + b"K\x00" for n in range(1, count)) + b"u"


def bombs(draw: random.Random) -> tuple[bytes, ...]:
    """Pieces that need no code to do harm: they fill the memory, the stack or the day. Each pushes one thing."""
    many = draw.choice((10, 1000, 30_000))
    return (
        b"c__builtin__\nbytearray\n" + integer(draw.choice((10**8, 2 * 10**9))) + b"\x85R",
        b"c_codecs\nencode\n" + text(WIDE) + text(draw.choice(("latin1", "utf8", "punycode", "zlib"))) + b"\x86R",
        b"}" + laughs(draw.choice((5, 60))) + b"K\x01s",
        laughs(60),
        collisions(many),
        b")" + b"\x85" * many,
        b"}" + b")" + b"\x85" * many + b"K\x01s",
        b"]" * many + b"a" * (many - 1),
        b"(" + draw.choice((b"}", b"]", b")", b"\x8f")) * many + b"t",
        b"(" * many,
        b"Nr" + struct.pack("<I", draw.choice((10**6, 2**31, 2**32 - 1))),
        b"\x8b" + struct.pack("<i", draw.choice((-1, 2**31 - 1))) + b"\xff" * 9,
        b"\x8d" + struct.pack("<Q", draw.choice((2**40, 2**63))) + b"x",
        b"I" + b"9" * draw.choice((100, 5000)) + b"\n",
        integer(draw.choice(NUMBERS)),
        b"c__builtin__\nset\n](" + b"K\x01" * 5 + b"e\x85R",
        b"ccollections\nCounter\n" + text("x" * 1000) + b"\x85R",
        b"ctorch\nSize\n(" + integer(draw.choice(NUMBERS)) * 3 + b"t\x85R",
        b"ctorch\ndevice\n" + text(draw.choice(("cuda:0", "meta", "x"))) + b"\x85R",
        b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text(draw.choice(("0", "1", "../0", "x"))) + text("cpu")
        + integer(draw.choice(NUMBERS)) + b"tQ",
        b"ccollections\nOrderedDict\n)R(" + text("__class__") + text("x") + b"db",
        text(draw.choice(STRINGS)),
        b"\x82\x01",
        b"Pevil\n",
        b"NQ",
        b"\x95" + struct.pack("<Q", draw.choice(NUMBERS) % 2**64),
    )  # fmt: skip


GLOBALS = (
    *("torch._utils _rebuild_tensor", "torch._utils _rebuild_tensor_v3", "torch._utils _rebuild_parameter"),
    *("torch._utils _rebuild_sparse_tensor", "torch._utils _rebuild_qtensor", "torch._utils _rebuild_nested_tensor"),
    *("torch._utils _rebuild_meta_tensor_no_storage", "torch._utils _rebuild_wrapper_subclass"),
    *("torch._utils _rebuild_device_tensor_from_numpy", "torch._tensor _rebuild_from_type_v2", "torch Tensor"),
    *("torch FloatStorage", "torch DoubleStorage", "torch QInt8Storage", "torch.storage UntypedStorage"),
    *("torch ComplexDoubleStorage", "torch.cuda FloatStorage", "torch.nn.parameter Parameter", "torch Size"),
    *("collections OrderedDict", "collections Counter", "__builtin__ bytearray", "__builtin__ set", "_codecs encode"),
    *("torch float32", "torch load", "builtins complex", "posix system", "builtins exec", "evil touch"),
    *("evil.deep touch", "torch.hub load", "\ud800 x", "x" * 5000 + " y"),
)


def instructions(pickle: bytes) -> list[bytes]:
    """Returns the bytes of each instruction."""
    positions = [at for _, _, at in pickletools.genops(io.BytesIO(pickle)) if at is not None]
    return [pickle[a:b] for a, b in pairwise([*positions, len(pickle)])]


def another(draw: random.Random, instruction: bytes) -> bytes:
    """Returns an instruction of the same kind with another argument; or any other."""
    code = instruction[:1]
    if code in b"KMJ\x8a":
        return integer(draw.choice((*NUMBERS[:-2], draw.randrange(64))))
    if code in b"XU":
        return text(draw.choice((*STRINGS, *PATHS, "storage", "0", "1", "cpu", "meta", "cuda", "model", "format")))
    if code == b"c":
        return b"c" + draw.choice(GLOBALS).encode("utf-8", "surrogatepass").replace(b" ", b"\n") + b"\n"
    if code in b"hjqr":
        return code + draw.choice((b"\x00", b"\x01", b"\x7f", b"\xff")) * (len(instruction) - 1)
    return draw.choice([bytes([code]) for code in b"0N)]}(tRbsueQ2.\x81"])


def put(draw: random.Random, parts: list[bytes], piece: bytes) -> None:
    """Puts what pushes one thing where a dict or a list takes it in, so that all else stays good; or anywhere."""
    places = [place for place, part in enumerate(parts) if part in (b"u", b"e")]
    if places and draw.random() < 0.8:
        place = draw.choice(places)
        parts[place:place] = [text("more"), piece] if parts[place] == b"u" else [piece]
    else:
        parts.insert(draw.randrange(len(parts) + 1), piece + b"0")


def mutate_pickle(draw: random.Random, content: bytes, others: Sequence[bytes] = ()) -> bytes:
    """Changes one to three instructions."""
    parts = instructions(content)
    for _ in range(draw.choice((1, 1, 2, 3))):
        place = draw.randrange(1, len(parts)) if len(parts) > 1 else 0
        kind = draw.randrange(12)
        if kind < 4 and parts:
            parts[place] = another(draw, parts[place])
        elif kind < 8:
            put(draw, parts, draw.choice(EXECUTING if kind < 6 else bombs(draw)))
        elif kind == 8:
            parts[1:-1] = [draw.choice(bombs(draw))]
        elif kind == 9 and parts:
            del parts[place]
        elif kind == 10:
            upto = place + draw.randint(1, 20)
            parts[upto:upto] = parts[place:upto] * draw.choice((1, 50))
        else:
            other = draw.randrange(len(parts)) if parts else 0
            parts[place : place + 1] = parts[other : other + 1]
    return b"".join(parts)
