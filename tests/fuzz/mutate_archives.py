"""Containers whose tables lie: zip archives, safetensors, files of torch before 1.6, and arrays of numpy."""

from __future__ import annotations

import io
import json
import pickletools
import random
import struct
import warnings
import zipfile
from collections.abc import Sequence

from mutate_bytes import NUMBERS, mutate_bytes
from mutate_pickles import mutate_pickle
from mutate_text import PATHS, STRINGS, change, dumped

Entries = list[tuple[str, bytes]]


def unzipped(content: bytes) -> Entries:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return [(entry.filename, archive.read(entry)) for entry in archive.infolist()]


def zipped(entries: Entries, method: int = zipfile.ZIP_STORED) -> bytes:
    """Writes an archive, two entries of one name included."""
    held = io.BytesIO()
    with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(held, "w", method) as archive:
        for name, content in entries:
            archive.writestr(zipfile.ZipInfo(name), content, method)
    return held.getvalue()


def two_tables(seen: bytes, loaded: bytes) -> bytes:
    """Returns an archive with two tables: `seen` stands before the end, `loaded` where the end says that its table is.

    Python's zipfile takes the first, and counts where entries begin from how far it is from the second; torch takes
    the second.
    """
    (other, length), (at, size) = table_of(seen), table_of(loaded)
    room = max(0, other - at)
    front = loaded[:at] + bytes(room) + loaded[at : at + size].ljust(length, b"\0")
    table, place = bytearray(seen[other : other + length]), 0
    while place < length:
        begin = int.from_bytes(table[place + 42 : place + 46], "little")
        table[place + 42 : place + 46] = (begin - other + at + room).to_bytes(4, "little")
        place += 46 + sum(struct.unpack("<HHH", table[place + 28 : place + 34]))
    end = seen[other + length : -6] + (at + room).to_bytes(4, "little") + b"\0\0"
    return front + seen[:other] + bytes(table) + end


def table_of(archive: bytes) -> tuple[int, int]:
    """Where the table of a plain archive begins, and its length."""
    size, at = struct.unpack("<II", archive[-10:-2])
    return at, size


def mutate_table(draw: random.Random, archive: bytes) -> bytes:
    """Overwrites a field of an entry, in the table or before the entry itself."""
    signature = draw.choice((b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06"))
    found = [n for n in range(len(archive)) if archive.startswith(signature, n)]
    if not found:
        return archive
    place = draw.choice(found) + draw.choice((4, 6, 8, 10, 14, 18, 20, 22, 24, 26, 28, 30, 42))
    width = draw.choice((2, 4))
    number = draw.choice((*NUMBERS, len(archive), draw.randrange(len(archive)))) % 256**width
    return archive[:place] + number.to_bytes(width, "little") + archive[place + width :]


def mutate_zip(draw: random.Random, content: bytes, others: Sequence[bytes] = ()) -> bytes:
    """Rewrites an archive with entries that are changed, renamed, doubled, compressed, or not where it says."""
    entries = unzipped(content)
    root = entries[0][0].split("/")[0]
    place = draw.randrange(len(entries))
    name, held = entries[place]
    kind = draw.randrange(20)
    if kind < 11 and name.endswith(".npy"):
        entries[place] = name, mutate_array(draw, held)
    elif kind < 11:
        at = next(n for n, (name, _) in enumerate(entries) if name.endswith("data.pkl"))
        entries[at] = entries[at][0], mutate_pickle(draw, entries[at][1], others)
    elif kind == 11:
        entries[place] = name, mutate_bytes(draw, held, others)
    elif kind == 12:
        entries[place] = draw.choice((*PATHS, "constants.pkl", name.upper(), f"{root}/x/data.pkl", name + "\0x")), held
    elif kind == 13:
        entries.insert(draw.randrange(len(entries) + 1), (draw.choice((name, name.upper(), root + "/.data/x")), held))
    elif kind == 14:
        entries.append((f"{root}/{draw.choice(('byteorder', 'version', '.format_version', '.storage_alignment'))}",
                        draw.choice((b"big", b"little", b"9" * 30, b"-1", b"0", b""))))  # fmt: skip
    elif kind == 15:
        del entries[place]
    elif kind == 16:
        return zipped([*entries, (f"{root}/zeros", bytes(10**6))][draw.randrange(2) :], zipfile.ZIP_DEFLATED)
    elif kind == 17:
        spoilt = [(n, mutate_pickle(draw, c, others) if n.endswith("data.pkl") else c) for n, c in entries]
        return two_tables(zipped(entries), zipped(spoilt, draw.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))))
    archive = zipped(entries)
    return mutate_table(draw, archive) if kind > 17 else archive


def mutate_safetensors(draw: random.Random, content: bytes, others: Sequence[bytes] = ()) -> bytes:
    """Changes the header as JSON, with a length that fits it, mostly."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    for _ in range(draw.choice((1, 1, 2))):
        header = change(draw, header)
    raw = dumped(draw, header, raw=draw.randrange(6) == 0)
    raw += b" " * draw.choice((0, 0, -len(raw) % 8))
    said = draw.choice((*[len(raw)] * 8, len(raw) + 1, *NUMBERS)) % 2**64
    return said.to_bytes(8, "little") + raw + content[8 + length :]


def mutate_legacy(draw: random.Random, content: bytes, others: Sequence[bytes] = ()) -> bytes:
    """Changes one of the five pickles in a row, or the storages behind them."""
    file, parts = io.BytesIO(content), list[bytes]()
    for _ in range(5):
        begin = file.tell()
        for _ in pickletools.genops(file):
            pass
        parts.append(content[begin : file.tell()])
    place = draw.choice((3, 3, 3, 3, 3, 4, 2, 1, 0))
    parts[place] = mutate_pickle(draw, parts[place], others)
    storages = content[file.tell() :]
    if draw.randrange(4) == 0:
        storages = mutate_bytes(draw, storages, others)
    return b"".join(parts) + storages


def mutate_array(draw: random.Random, content: bytes) -> bytes:
    """Changes what an array of numpy says of itself, or its bytes."""
    size = int.from_bytes(content[8:10], "little")
    header = content[10 : 10 + size].decode("latin1")
    many = f"({draw.choice(NUMBERS[:-1])}, 4)"
    shape = draw.choice((many, "()", "(-1,)", "(0, 10**18)", "(1,) * 70", "(True,)", "'x'"))
    dtype = draw.choice(("O", "<U100000", "|V8", "<f2", "<f8", "<c16", "M8[ns]", "|S1", "[('a', '<f4')]", "x", "|b1"))
    kind = draw.randrange(5)
    if kind == 0:
        header = header[: header.index("'shape'")] + f"'shape': {shape}, }}"
    elif kind == 1:
        header = header.replace("'descr': '", f"'descr': '{dtype}', 'x': '", draw.randrange(2))
        header = header.replace("<f4", dtype).replace("|u1", dtype).replace("<i8", dtype)
    elif kind == 2:
        header = draw.choice((*STRINGS, "(" * 9000, "__import__('os').system('touch ran')", "{}", header * 2))
    elif kind == 3:
        header = header.replace("False", "True")
    body = content[10 + size :] if kind < 4 else mutate_bytes(draw, content[10 + size :])
    raw = header.encode("utf-8", "surrogatepass") + b"\n"
    said = draw.choice((*[len(raw)] * 6, 0, 65535))
    return content[:8] + (said % 65536).to_bytes(2, "little") + raw + body
