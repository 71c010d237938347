from __future__ import annotations

import argparse
import os
import pickle
import pickletools
import struct
import time
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from redteam.checkpoints.archive import read_archive, tensors_in
from redteam.errors import InputError


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)


class Payload:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def rewrite(
    source: Path, target: Path, change: Callable[[str, bytes], tuple[str, bytes]], method: int = zipfile.ZIP_STORED
) -> Path:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", method) as new:
        for entry in old.infolist():
            name, content = change(entry.filename, old.read(entry))
            new.writestr(name, content)
    return target


def unchanged(name: str, content: bytes) -> tuple[str, bytes]:
    return name, content


def test_tensors_and_primitives_come_back(tmp_path):
    path = tmp_path / "m.pt"
    torch.save(
        {"a": torch.arange(6.0).reshape(2, 3), "epoch": 3, "names": ["x"], "p": nn.Parameter(torch.ones(2))}, path
    )
    loaded = read_archive(path)
    assert torch.equal(loaded["a"], torch.arange(6.0).reshape(2, 3))
    assert loaded["epoch"] == 3
    assert dict(tensors_in(loaded)).keys() == {"a", "p"}


def test_a_training_checkpoint_with_optimizer_and_tied_weights_comes_back(tmp_path):
    net = Net()
    optimizer = torch.optim.AdamW(net.parameters())
    net.linear(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    path = tmp_path / "m.pt"
    state = net.state_dict()
    torch.save({"model": {**state, "tied": state["linear.weight"]}, "optimizer": optimizer.state_dict()}, path)
    assert torch.equal(read_archive(path)["model"]["tied"], state["linear.weight"])


def test_a_payload_is_not_executed(tmp_path, refusal):
    marker, control, path = tmp_path / "executed", tmp_path / "control", tmp_path / "m.pt"
    torch.save({"weight": torch.ones(2), "x": Payload(marker)}, path)
    message = refusal(path)
    assert "posix.system" in message
    assert "torch.save(model.state_dict(), path)" in message
    assert not marker.exists()
    pickle.loads(pickle.dumps(Payload(control)))
    assert control.exists(), "the payload itself does not work, so this test shows nothing"


def test_a_pickled_module_is_named(tmp_path, refusal):
    path = tmp_path / "m.pt"
    torch.save(Net(), path)
    message = refusal(path)
    assert "is a pickled Python object (needs " in message
    assert f"{Net.__module__}.Net" in message
    assert "Save the weights alone: torch.save(model.state_dict(), path)" in message


@pytest.mark.parametrize("extra", [argparse.Namespace(lr=1), np.float64(1.0), Path("x")])
def test_other_objects_beside_weights_are_named(tmp_path, refusal, extra):
    path = tmp_path / "m.pt"
    torch.save({"state_dict": {"w": torch.ones(2)}, "extra": extra}, path)
    assert "is a pickled Python object (needs" in refusal(path)


@pytest.mark.parametrize("share", [0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.999])
def test_truncated(saved, refusal, share):
    path = saved("m.pt")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    assert "truncated" in refusal(path)


def test_stride_zero_bomb(tmp_path, refusal):
    path = tmp_path / "m.pt"
    torch.save({"w": torch.ones(1).expand(10**12)}, path)
    assert path.stat().st_size < 5000
    assert "w claims 4000000000000 bytes but stores 4" in refusal(path)


def test_many_tensors_of_one_storage(tmp_path, refusal):
    path = tmp_path / "m.pt"
    shared = torch.ones(50_000)
    torch.save({f"w{i}": shared.view(50_000) for i in range(50)}, path)
    assert "claim 10000000 bytes, more than it has" in refusal(path)


def test_a_storage_that_is_not_there(tmp_path, refusal):
    source = tmp_path / "m.pt"
    torch.save({"w": torch.ones(3)}, source)

    def lie(name: str, content: bytes) -> tuple[str, bytes]:
        if not name.endswith("data.pkl"):
            return name, content
        positions = [at for op, value, at in pickletools.genops(content) if op.name == "BININT1" and value == 3]
        assert len(positions) == 2  # elements of the storage, size of the tensor
        changed = bytearray(content)
        for at in positions:
            changed[at + 1] = 200
        return name, bytes(changed)

    assert "claims a storage of 800 bytes" in refusal(rewrite(source, tmp_path / "lie.pt", lie))


def test_compressed_entries(saved, tmp_path, refusal):
    path = rewrite(saved("m.pt"), tmp_path / "m.pt", unchanged, zipfile.ZIP_DEFLATED)
    assert "compressed entries" in refusal(path)


def test_a_rewritten_archive_without_changes_is_accepted(saved, tmp_path):
    path = rewrite(saved("m.pt"), tmp_path / "m.pt", unchanged)
    assert read_archive(path)["format"] == "redteam-checkpoint-1"


@pytest.mark.parametrize("name", ["archive/../../evil", "/etc/evil", "elsewhere/evil", "archive/..\\evil"])
def test_entries_outside_the_archive(saved, tmp_path, refusal, name):
    path = tmp_path / "m.pt"
    rewrite(saved("m.pt"), path, unchanged)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, "x")
    assert "entry outside its folder" in refusal(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_entries_of_one_name(saved, tmp_path, refusal):
    path = rewrite(saved("m.pt"), tmp_path / "m.pt", unchanged)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("archive/data.pkl", "x")
    assert "two entries of one name" in refusal(path)


def declare(path: Path, compressed: int, size: int) -> Path:
    """Rewrites the table of the archive: every storage is declared with these sizes."""
    with zipfile.ZipFile(path, "a") as archive:
        for entry in archive.infolist():
            if "/data/" in entry.filename:
                entry.compress_size, entry.file_size = compressed, size
        archive.writestr("archive/added", "a change, so that the table is written anew")
    return path


def test_sizes_that_the_file_cannot_have(saved, refusal):
    assert "says archive/data/0 has" in refusal(declare(saved("a.pt"), 64, 10**6))
    assert "says archive/data/0 has" in refusal(declare(saved("b.pt"), 10**6, 10**6))
    assert "entries that overlap" in refusal(declare(saved("c.pt"), 4000, 4000))


def test_the_advice_of_torch_is_left_out(saved, tmp_path, refusal):
    def unsupported(name: str, content: bytes) -> tuple[str, bytes]:
        return name, b"\x80\x02K\x01K\x020." if name.endswith("data.pkl") else content

    path = rewrite(saved("m.pt"), tmp_path / "m.pt", unsupported)
    with pytest.raises(pickle.UnpicklingError, match="weights_only"):
        torch.load(path, weights_only=True)
    assert "has a malformed pickle" in refusal(path)


def test_too_many_entries(saved, tmp_path, refusal, monkeypatch):
    monkeypatch.setattr("redteam.checkpoints.archive.MAX_ENTRIES", 5)
    assert "more than 5" in refusal(saved("m.pt"))


def test_a_huge_pickle(saved, refusal, monkeypatch):
    monkeypatch.setattr("redteam.checkpoints.archive.MAX_PICKLE", 100)
    assert "has a pickle of" in refusal(saved("m.pt"))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    "other",
    [
        lambda dense: dense.to_sparse(),
        lambda dense: dense.to_sparse_csr(),
        lambda dense: torch.quantize_per_tensor(dense, 0.1, 0, torch.qint8),
    ],
    ids=["coo", "csr", "quantised"],
)
def test_only_dense_tensors(tmp_path, refusal, other):
    path = tmp_path / "m.pt"
    torch.save({"w": other(torch.eye(3))}, path)
    assert "not dense" in refusal(path)


@pytest.mark.parametrize(
    "junk",
    [b"", b"\x80\x02", b"\x80\x02}q\x00(X\xff\xff\xff\x7f", b"garbage", b"\x80\x02\x8c\x02os\x8c\x06system\x93."],
)
def test_malformed_pickles(saved, tmp_path, refusal, junk):
    def spoil(name: str, content: bytes) -> tuple[str, bytes]:
        return name, junk if name.endswith("data.pkl") else content

    message = refusal(rewrite(saved("m.pt"), tmp_path / "m.pt", spoil))
    assert (
        "malformed pickle" in message
        or "cannot be read as a torch checkpoint" in message
        or "needs os.system" in message
    )


def test_flipped_bytes_end_in_one_line_or_in_a_checkpoint(saved, tmp_path):
    whole = saved("m.pt").read_bytes()
    start = whole.index(b"data.pkl")
    path = tmp_path / "flipped.pt"
    refusals = []
    for at in range(start, start + 1500, 13):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x15]) + whole[at + 1 :])
        try:
            read_archive(path)
        except InputError as error:
            refusals.append(str(error))
    assert len(refusals) > 10
    assert not [line for line in refusals if "weights_only" in line or "\n" in line]


def test_tensors_in_a_structure_that_contains_itself():
    loop: list[object] = [torch.ones(1)]
    loop.append(loop)
    deep: object = torch.zeros(1)
    for _ in range(50_000):
        deep = (deep,)
    assert [name for name, _ in tensors_in({"loop": loop, "deep": deep})] == ["deep", "loop"]


# Pickles that need no code to do harm, and tables that are not what they seem. Each was found by the fuzzer.


def with_pickle(source: Path, target: Path, pickle: bytes) -> Path:
    return rewrite(source, target, lambda name, content: (name, pickle if name.endswith("data.pkl") else content))


def doubled(levels: int) -> bytes:
    """Instructions that push a tuple of twice a tuple of twice a tuple and so on."""
    more = b"".join(b"h%ch%c\x86q%c0" % (n, n, n + 1) for n in range(levels))
    return b")q\x000" + more + b"h%c" % levels


def long_integer(number: int) -> bytes:
    content = number.to_bytes(number.bit_length() // 8 + 1, "little")
    return b"\x8a" + bytes([len(content)]) + content


COLLIDING = b"".join(long_integer(n * (2**61 - 1)) + b"N" for n in range(2, 2000))
SLOW = "".join(map(chr, range(0x4E00, 0x8E00))).encode()


@pytest.mark.parametrize(
    ("held", "words"),
    [
        pytest.param(b"})" + b"\x85" * 200_000 + b"Ns.", "nests more than 100 times", id="deep key"),
        pytest.param(b"(" * 200_000 + b"t.", "nests more than 100 times", id="marks"),
        pytest.param(b"}" + doubled(60) + b"Ns.", "grows when it is loaded", id="endless key"),
        pytest.param(b"}(" + COLLIDING + b"u.", "grows when it is loaded", id="keys of one hash"),
        pytest.param(b"(" + b"}" * 100_000 + b"t.", "grows when it is loaded", id="many dicts"),
        pytest.param(
            b"c__builtin__\nbytearray\n" + long_integer(10**10) + b"\x85R.", "needs __builtin__.bytearray", id="room"
        ),
        pytest.param(
            b"ctorch\nFloatTensor\n" + long_integer(10**10) + b"\x85R.", "needs torch.FloatTensor", id="tensor"
        ),
        pytest.param(
            b"c_codecs\nencode\nX" + len(SLOW).to_bytes(4, "little") + SLOW + b"X\x08\x00\x00\x00punycode\x86R.",
            "needs _codecs.encode",
            id="codec",
        ),
    ],
)
def test_pickles_that_grow(saved, tmp_path, refusal, held, words):
    path = with_pickle(saved("m.pt"), tmp_path / "m.pt", b"\x80\x02" + held)
    started = time.perf_counter()
    assert words in refusal(path)
    assert time.perf_counter() - started < 4


def test_pickles_that_are_large_or_shared_but_not_out_of_proportion(tmp_path):
    """Lists are written in batches of a thousand, and what occurs twice is written once."""
    betas, path = (0.9, 0.999), tmp_path / "m.pt"
    held = {
        "losses": [[step, 0.5] for step in range(20_000)],
        "steps": list(range(200_000)),
        "groups": [{"betas": betas, "name": "group", ("a", n): n} for n in range(500)],
        "state": [2**127 - 1] * 600,
        "raw": [b"\xff", b"abc"],
        "complex": 1 + 2j,
        "milestones": Counter({3: 1}),
        "kinds": {torch.float16, torch.int64},
        "shape": torch.Size([2]),
        "device": torch.device("cpu"),
        "w": torch.ones(2),
    }
    torch.save(held, path)
    assert read_archive(path)["steps"][-1] == 199_999
    assert {name: value for name, value in read_archive(path).items() if name != "w"} == {
        name: value for name, value in held.items() if name != "w"
    }


def test_a_second_table_of_contents(saved, tmp_path, refusal):
    """Python reads the table before the end, torch the one that the end points to: here the first is harmless."""
    harmless = rewrite(saved("a.pt"), tmp_path / "a.pt", unchanged).read_bytes()
    other = rewrite(saved("b.pt"), tmp_path / "b.pt", unchanged, zipfile.ZIP_DEFLATED).read_bytes()
    path = tmp_path / "m.pt"
    path.write_bytes(two_tables(harmless, other))
    with zipfile.ZipFile(path) as seen:
        assert {entry.compress_type for entry in seen.infolist()} == {zipfile.ZIP_STORED}
        assert seen.testzip() is None
    assert "table of contents that is not where it says" in refusal(path)


def two_tables(seen: bytes, loaded: bytes) -> bytes:
    """Puts one archive behind another, and has its end point to the table of the other."""
    (length, other), (size, at) = (struct.unpack("<II", archive[-10:-2]) for archive in (seen, loaded))
    room = max(0, other - at)
    table, place = bytearray(seen[other : other + length]), 0
    while place < length:
        begin = int.from_bytes(table[place + 42 : place + 46], "little") - other + at + room
        table[place + 42 : place + 46] = begin.to_bytes(4, "little")
        place += 46 + sum(struct.unpack("<HHH", table[place + 28 : place + 34]))
    front = loaded[:at] + bytes(room) + loaded[at : at + size]
    return front + seen[:other] + bytes(table) + seen[other + length : -6] + (at + room).to_bytes(4, "little") + b"\0\0"


def test_what_is_checked_is_what_is_loaded(saved, tmp_path, refusal):
    """torch takes the pickle of the first folder, and makes no difference between large and small letters."""
    nested, path = b"\x80\x02})" + b"\x85" * 200 + b"Ns.", tmp_path / "m.pt"
    with zipfile.ZipFile(saved("m.pt")) as whole:
        held = {name: nested if name.endswith("data.pkl") else whole.read(name) for name in whole.namelist()}
    for harmless, words in (("archive/x/data.pkl", "nests"), ("archive/DATA.PKL", "two entries of one name")):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(harmless, b"\x80\x02}.")
            for name, content in held.items():
                archive.writestr(name, content)
        assert words in refusal(path)


def test_a_long_table_of_contents(saved, refusal, monkeypatch):
    path = saved("m.pt")
    monkeypatch.setattr("redteam.checkpoints.identify.MAX_TABLE", 100)
    assert "has a table of contents of" in refusal(path)


@pytest.mark.parametrize("place", [-50, -58, -34], ids=["begin", "length", "where the larger end is"])
def test_large_numbers_that_are_not_the_small_ones(saved, refusal, place):
    """torch writes the end twice, for large files in larger numbers, which are the ones that count."""
    path = saved("m.pt")
    end = bytearray(path.read_bytes())
    end[place] ^= 1
    path.write_bytes(end)
    assert "names two tables of contents" in refusal(path)


def test_bytes_behind_an_archive(saved, refusal):
    path = saved("m.pt")
    path.write_bytes(path.read_bytes() + b"\0")
    assert "truncated or damaged" in refusal(path)


def test_long_names_are_cut_short(described, refusal):
    path = described / "m.pt"
    torch.save({"w" * 9000: torch.ones(1).expand(10**12)}, path)
    assert "wwww claims 4000000000000 bytes" in refusal(path)
    torch.save({"w" * 9000: torch.ones(1, dtype=torch.complex64), "v": torch.ones(1)}, path)
    assert "wwww is stored as complex64" in refusal(path)
