from __future__ import annotations

import argparse
import os
import pickle
import pickletools
import zipfile
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
