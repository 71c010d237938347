"""Every way in which the header of a GGUF file is refused, one at a time."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from gguf_files import byte_tokenizer, llama, write_gguf
from mutate_gguf import Pair, Tensor, parsed, text, written

from redteam.checkpoints.gguf_header import read_gguf
from redteam.checkpoints.inspect import inspect_checkpoint
from redteam.errors import InputError

Parts = tuple[list[Pair], list[Tensor], bytes]
MANY = 10**6


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("gguf") / "m.gguf"
    write_gguf(path, llama(num_hidden_layers=1), byte_tokenizer(), "Q8_0")
    return path.read_bytes()


def refused(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        inspect_checkpoint(path)
    said = str(caught.value)
    assert said.isprintable()
    return said


def number(key: str, value: int) -> Pair:
    return key.encode(), 4, struct.pack("<I", value)


def listed(key: str, kind: int, count: int, held: bytes = b"") -> Pair:
    return key.encode(), 9, struct.pack("<IQ", kind, count) + held


def test_it_is_written_again_byte_by_byte(content: bytes, tmp_path: Path) -> None:
    """Or what is damaged below would be more than one thing."""
    pairs, table, data = parsed(content)
    assert written(pairs, table, data, (3, len(table), len(pairs))) == content
    path = tmp_path / "m.gguf"
    path.write_bytes(written(pairs, table, data, (2, len(table), len(pairs))))
    header = read_gguf(path)
    assert (header.architecture, len(header.tensors)) == ("llama", len(table))


@pytest.mark.parametrize("share", [0.0001, 0.01, 0.3, 0.99])
def test_one_that_is_cut_off(share: float, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(content[: int(len(content) * share)])
    assert "malformed GGUF header" in refused(path)


ADDED: dict[str, tuple[Pair, str]] = {
    "the same key again": (number("llama.block_count", 1), "it says 'llama.block_count' twice"),
    "an alignment of nothing": (number("general.alignment", 0), "aligned to 0 bytes"),
    "an odd alignment": (number("general.alignment", 48), "aligned to 48 bytes"),
    "a vast alignment": (number("general.alignment", 2**31), "aligned to 2147483648 bytes"),
    "a type of value": ((b"x", 13, b""), "it has a value of type 13"),
    "a type of array": (listed("x", 13, 1), "it has an array of type 13"),
    "an array of arrays": (listed("x", 9, 1, struct.pack("<IQ", 0, 1)), "it has an array of type 9"),
    "an array without end": (listed("x", 0, 2**64 - 1), "values in arrays"),
    "an array that is cut off": (listed("x", 12, 20_000), "it is cut off"),
    "a text without end": ((b"x", 8, b"\xff" * 8), "it is cut off"),
    "a text that is none": ((b"x", 8, text(b"\xff\xfe")), "can't decode"),
    "a long key": ((b"k" * 70_000, 4, bytes(4)), "a name or text of 70000 bytes"),
    "a long list": (listed("llama.x", 0, 30_001, bytes(30_001)), "it lists too much"),
    "a part": ((b"split.count", 2, b"\3\0"), "is one of 3 parts. Make one file of them"),
    "an adapter": ((b"general.type", 8, text(b"adapter")), "of type 'adapter', no model"),
}


@pytest.mark.parametrize("damage", ADDED)
def test_a_key_that_makes_no_sense(damage: str, content: bytes, tmp_path: Path) -> None:
    pair, says = ADDED[damage]
    pairs, table, data = parsed(content)
    pairs = [held for held in pairs if held[0] != b"general.type"]
    path = tmp_path / "m.gguf"
    path.write_bytes(written([*pairs, pair], table, data, (3, len(table), len(pairs) + 1)))
    assert says in refused(path)


CHANGED: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "an unknown type": (lambda tensor: replace(tensor, kind=99), "is of type 99, which is no type of weights"),
    "integers": (lambda tensor: replace(tensor, kind=26), "is of type 26, which is no type of weights"),
    "no dimensions": (lambda tensor: replace(tensor, said=0, dimensions=()), "has 0 dimensions"),
    "five dimensions": (lambda tensor: replace(tensor, said=5, dimensions=(32, 1, 1, 1, 1)), "has 5 dimensions"),
    "no elements": (lambda tensor: replace(tensor, dimensions=(32, 0)), "of the shape (0, 32)"),
    "half a block": (lambda tensor: replace(tensor, dimensions=(48, 2)), "of the shape (2, 48), in blocks of 32"),
    "more than there is": (lambda tensor: replace(tensor, dimensions=(32, 2**40)), "behind the end of the file"),
    "more than there can be": (lambda tensor: replace(tensor, dimensions=(2**63, 2**63)), "behind the end of the file"),
    "an offset behind the end": (lambda tensor: replace(tensor, offset=2**40), "behind the end of the file"),
    "an odd offset": (lambda tensor: replace(tensor, offset=tensor.offset + 16), "lies over another, askew"),
    "the offset of the one before": (lambda tensor: replace(tensor, offset=0), "lies over another"),
    "a name that is no text": (lambda tensor: replace(tensor, name=b"\xff"), "can't decode"),
}


@pytest.mark.parametrize("damage", CHANGED)
def test_a_tensor_that_makes_no_sense(damage: str, content: bytes, tmp_path: Path) -> None:
    change, says = CHANGED[damage]
    pairs, table, data = parsed(content)
    row = next(row for row, tensor in enumerate(table) if tensor.offset and tensor.kind == 8)
    table[row] = change(table[row])
    path = tmp_path / "m.gguf"
    path.write_bytes(written(pairs, table, data, (3, len(table), len(pairs))))
    assert says in refused(path)


def test_two_tensors_of_one_name_and_none_at_all(content: bytes, tmp_path: Path) -> None:
    pairs, table, data = parsed(content)
    path = tmp_path / "m.gguf"
    path.write_bytes(written(pairs, [*table, table[0]], data, (3, len(table) + 1, len(pairs))))
    assert f"the tensor {table[0].name.decode()!r} is there twice" in refused(path)
    path.write_bytes(written(pairs, [], data, (3, 0, len(pairs))))
    assert "holds no tensors" in refused(path)


@pytest.mark.parametrize(
    "said", [(1, 12, 20), (4, 12, 20), (3 << 24, 12, 20), (3, MANY, 20), (3, 12, MANY), (3, 12, 2**64 - 1)]
)
def test_a_version_or_counts_that_no_file_has(said: tuple[int, int, int], content: bytes, tmp_path: Path) -> None:
    pairs, table, data = parsed(content)
    path = tmp_path / "m.gguf"
    path.write_bytes(written(pairs, table, data, said))
    version = said[0] if said[0] != 3 else None
    assert (f"it is of version {version}" if version else f"it says that it has {said[2]} keys and") in refused(path)


def test_one_that_does_not_say_what_it_is(content: bytes, tmp_path: Path) -> None:
    pairs, table, data = parsed(content)
    path = tmp_path / "m.gguf"
    pairs = [pair for pair in pairs if pair[0] != b"general.architecture"]
    for more in ([], [number("general.architecture", 3)]):
        path.write_bytes(written([*pairs, *more], table, data, (3, len(table), len(pairs) + len(more))))
        assert "does not say its general.architecture" in refused(path)


def test_layers_that_no_model_has(content: bytes, tmp_path: Path) -> None:
    pairs, table, data = parsed(content)
    path = tmp_path / "m.gguf"
    pairs = [pair for pair in pairs if pair[0] != b"llama.block_count"]
    path.write_bytes(written(pairs, table, data, (3, len(table), len(pairs))))
    assert inspect_checkpoint(path).architecture == "llama: hidden size 64, vocabulary 288"
    for more, says in (
        (number("llama.block_count", 10**9), "1000000000"),
        ((b"llama.block_count", 8, text(b"a")), "a"),
    ):
        path.write_bytes(written([*pairs, more], table, data, (3, len(table), len(pairs) + 1)))
        assert f"it describes {says} layers" in refused(path)
