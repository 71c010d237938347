"""Files from before torch 1.6: what they hold is loaded, and nothing in them is run or believed."""

from __future__ import annotations

import io
import os
import pickle
import random
import shutil
import time
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from redteam.checkpoints.contents import read_contents
from redteam.checkpoints.identify import LEGACY_MAGIC
from redteam.checkpoints.inspect import inspect_checkpoint
from redteam.checkpoints.legacy import read_legacy
from redteam.checkpoints.load import open_target
from redteam.checkpoints.pickles import MAX_INSTRUCTIONS
from redteam.errors import InputError

DATA = os.environ.get("REDTEAM_DATA")


def save(content: Any, path: Path) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=False)
    return path


def refused(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_legacy(path)
    assert "weights_only" not in str(caught.value)
    return str(caught.value)


def test_it_opens_as_the_same_model(module, described, tmp_path, logits):
    legacy = save(module.state_dict(), tmp_path / "m.th")
    target = open_target(legacy, config=described)
    assert torch.equal(logits(target.module), logits(module))
    assert inspect_checkpoint(legacy, config=described).architecture.startswith("llama")


@pytest.mark.parametrize(
    "dtype",
    [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
     torch.uint8, torch.bool],
)  # fmt: skip
def test_every_kind_of_number_comes_back_to_the_bit(dtype, tmp_path):
    tensor = torch.tensor([[0, 1, 1], [1, 0, 1]]).to(dtype)
    held = OrderedDict(whole=tensor, part=tensor[:, 1:], turned=tensor.T, one=tensor[0, 0], none=tensor[:0])
    loaded = read_legacy(save(held, tmp_path / "m.pt"))
    for name, value in held.items():
        assert loaded[name].dtype == dtype
        assert torch.equal(loaded[name], value), name


def test_wrappers_and_parameters(tmp_path):
    layer = nn.Linear(3, 2)
    state = {"module." + name: parameter for name, parameter in layer.named_parameters()}
    path = save({"epoch": 3, "lr": 1e-3, "best": None, "names": ["a"], "state_dict": state}, tmp_path / "m.th")
    found = read_contents(read_legacy(path), path).state
    assert torch.equal(found["weight"], layer.weight)
    assert found.keys() == {"weight", "bias"}


def test_one_storage_may_be_shared(tmp_path):
    weight = torch.arange(6.0)
    loaded = read_legacy(save({"a": weight, "b": weight}, tmp_path / "m.pt"))
    assert loaded["a"].data_ptr() == loaded["b"].data_ptr()


@pytest.mark.skipif(DATA is None, reason="REDTEAM_DATA is not set")
def test_a_file_of_2019_that_many_people_use(tmp_path):
    path = Path(DATA or "") / "cifar_resnets" / "resnet20-12fca82f.th"
    found = read_contents(read_legacy(path), path).state
    assert found["conv1.weight"].shape == (16, 3, 3, 3)
    assert sum(t.numel() for name, t in found.items() if "running" not in name and "num_batches" not in name) == 269_722


# Refusals. A crafted file is written by this pickler: storages may claim what they like.


@dataclass(frozen=True)
class Storage:
    elements: int
    key: str = "0"
    kind: Any = torch.FloatStorage

    @property
    def id(self) -> tuple:
        return ("storage", self.kind, self.key, "cpu", self.elements, None)


@dataclass(frozen=True)
class Claim:
    storage: Storage
    size: tuple[int, ...]
    stride: tuple[int, ...] = (1,)
    offset: int = 0

    def __reduce__(self):
        arguments = (self.storage, self.offset, self.size, self.stride, False, OrderedDict())
        return torch._utils._rebuild_tensor_v2, arguments


class Changed:
    """A storage that is given another state once it has been looked at."""

    def __reduce__(self):
        return torch._utils._rebuild_parameter, (Claim(Storage(4), (4,)), True, OrderedDict()), {"elements": 10**12}


class Called:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self):
        return self.call


class Writer(pickle.Pickler):
    def persistent_id(self, value: Any) -> Any:
        return value.id if isinstance(value, Storage) else None


def dumped(content: Any) -> bytes:
    file = io.BytesIO()
    Writer(file, 2).dump(content)
    return file.getvalue()


def file_of(held: bytes, keys: tuple[str, ...] = ("0",), elements: int = 4) -> bytes:
    """A file that holds this pickle, and storages of so many floats."""
    machine = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    head = LEGACY_MAGIC + pickle.dumps(1001, 2) + pickle.dumps(machine, 2) + held + pickle.dumps(list(keys), 2)
    return head + len(keys) * (elements.to_bytes(8, "little") + np.ones(elements, "<f4").tobytes())


def test_the_writer_of_these_tests_writes_what_can_be_read(tmp_path):
    (tmp_path / "m.pt").write_bytes(file_of(dumped({"w": Claim(Storage(4), (2, 2), (2, 1))})))
    assert torch.equal(read_legacy(tmp_path / "m.pt")["w"], torch.ones(2, 2))


@pytest.mark.parametrize(
    ("claim", "words"),
    [
        (Claim(Storage(4), (10**12,), (0,)), "claim"),  # passes torch, and is 4 TB once it is copied
        (Claim(Storage(4), (5,)), "reaches beyond"),
        (Claim(Storage(4), (2,), (10**9,)), "reaches beyond"),
        (Claim(Storage(4), (2,), offset=3), "reaches beyond"),
        (Claim(Storage(4), (2,), offset=-1), "reaches beyond"),
        (Claim(Storage(4), (-1,)), "reaches beyond"),
        (Claim(Storage(10**12), (4,)), "elements, where 1000000000000 are claimed"),
        (Claim(Storage(-1), (0,)), "says two things"),
        (Claim(Storage(4, kind=0), (4,)), "says two things"),
        (Claim(Storage(4), (2**31 - 1,) * 100_000, (0,) * 100_000), "has 100000 dimensions"),
        (Claim(Storage(4, kind=torch.DoubleStorage), (4,)), "is truncated"),
        ([Claim(Storage(4), (4,)), Claim(Storage(4, kind=torch.LongStorage), (4,))], "says two things"),
        ([Claim(Storage(4), (4,)), Claim(Storage(4, key="1"), (4,))], "lists other storages"),
    ],
)
def test_claims_are_held_against_the_bytes(claim, words, tmp_path):
    assert words in refused(tmp_path / "m.pt", file_of(dumped({"w": claim})))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (Called(os.system, "touch ran"), "needs posix.system"),
        (Called(eval, "open('ran', 'w')"), "needs __builtin__.eval"),
        (Called(torch._utils._rebuild_sparse_tensor, torch.strided, ()), "not dense (sparse tensor)"),
        (Called(torch.load, "other.pt"), "needs torch.serialization.load"),
        ({"p": Path("x")}, "is a pickled Python object"),
        (Changed(), "damaged"),
        (Called(OrderedDict, 3), "damaged"),
        ({1, 2}, "needs __builtin__.set"),
    ],
)
def test_nothing_is_called_that_weights_do_not_need(content, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert words in refused(tmp_path / "m.pt", file_of(dumped(content)))
    assert os.listdir(tmp_path) == ["m.pt"]


def test_a_whole_module_is_refused(tmp_path):
    path = save(nn.Linear(2, 2), tmp_path / "m.pt")
    assert "not a state dict" in refused(path, path.read_bytes())


def test_objects_numbered_to_the_sky_are_refused(tmp_path):
    """The C unpickler makes room for all numbers up to the highest: 64 GB for this one."""
    held = b"\x80\x02}r\xff\xff\xff\xff."
    assert "numbers its objects up to 4294967295" in refused(tmp_path / "m.pt", file_of(held, keys=()))


@pytest.mark.parametrize("held", [b"\x80\x04\x8c\x02os\x8c\x06system\x93.", b"\x80\x02c__builtin__\nlist\n)\x81."])
def test_newer_instructions_are_refused(held, tmp_path):
    assert "is a pickled Python object" in refused(tmp_path / "m.pt", file_of(held, keys=()))


def test_an_endless_pickle_is_refused_in_time(tmp_path):
    started = time.perf_counter()
    held = b"\x80\x02" + b")" * (MAX_INSTRUCTIONS * 30) + b"."
    assert "instructions" in refused(tmp_path / "m.pt", file_of(held, keys=()))
    assert time.perf_counter() - started < 20  # all of it would take a minute and a half


def test_damage_anywhere_is_refused_or_does_no_harm(tmp_path, monkeypatch):
    """A thousand files with a byte changed, taken out or cut off: loaded, or refused in one line."""
    whole = save({"a": torch.ones(3), "b": nn.Parameter(torch.zeros(2, 2))}, tmp_path / "m.pt").read_bytes()
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    draw, outcomes = random.Random(0), {"loaded": 0, "refused": 0}
    for _ in range(1000):
        at = draw.randrange(len(LEGACY_MAGIC), len(whole))
        kind = draw.randrange(3)
        changed = [
            whole[:at],
            whole[:at] + whole[at + 1 :],
            whole[:at] + bytes([draw.randrange(256)]) + whole[at + 1 :],
        ]
        (tmp_path / "m.pt").write_bytes(changed[kind])
        try:
            read_legacy(tmp_path / "m.pt")
            outcomes["loaded"] += 1
        except InputError:
            outcomes["refused"] += 1
    assert outcomes["refused"] > 500
    assert outcomes["loaded"] > 10
    assert not any(empty.iterdir())


def test_reading_leaves_the_file(module, tmp_path):
    path = save(module.state_dict(), tmp_path / "m.pt")
    copy = shutil.copy(path, tmp_path / "copy.pt")
    read_legacy(path)["lm_head.weight"].zero_()
    assert path.read_bytes() == Path(copy).read_bytes()


# In C, where nothing stops it: each of these took for ever, or ended the process, when the object was rebuilt.


@pytest.mark.parametrize(
    ("held", "words"),
    [
        pytest.param(b"})" + b"\x85" * 200_000 + b"Ns.", "nests more than 100 times", id="deep key"),
        pytest.param(
            b"})q\x00" + b"".join(b"h%ch%c\x86q%c" % (n, n, n + 1) for n in range(60)) + b"Ns.",
            "grows when it is loaded",
            id="endless key",
        ),
        pytest.param(
            b"}("
            + b"".join(b"\x8a\x0b" + (n * (2**61 - 1)).to_bytes(11, "little") + b"N" for n in range(16, 5000))
            + b"u.",
            "grows when it is loaded",
            id="keys of one hash",
        ),
        pytest.param(b"(" + b"}" * 100_000 + b"t.", "grows when it is loaded", id="many dicts"),
    ],
)
def test_pickles_that_grow(held, words, tmp_path):
    started = time.perf_counter()
    assert words in refused(tmp_path / "m.pt", file_of(b"\x80\x02" + held, keys=()))
    assert time.perf_counter() - started < 4


def test_long_names_are_cut_short(tmp_path):
    held = b"\x80\x02ctorch._utils\n_rebuild_" + b"x" * 9000 + b"\n."
    message = refused(tmp_path / "m.pt", file_of(held, keys=()))
    assert "not dense (xxxx" in message
    assert len(message) < 1000
