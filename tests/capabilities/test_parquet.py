"""Parquet files as pyarrow writes them, damaged ones, and small ones that would be large in memory."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from redteam.capabilities import parquet
from redteam.capabilities.files import load_capability
from redteam.capabilities.items import Capability
from redteam.capabilities.parquet import parquet_rows, refuse_inflated
from redteam.capabilities.rows import rows_of
from redteam.errors import InputError

TOML = """
name = "people"
prompt = "{question} {about[person]}"
group = { field = "about.person" }
forget = ["forget.jsonl"]
retain = ["retain.jsonl"]
"""


DELTA = "DELTA_BYTE_ARRAY"
SPARK = {"use_dictionary": False, "column_encoding": {"question": DELTA, "about.person": DELTA}}


def row(number: int, **more: Any) -> dict[str, Any]:
    choices = [f"{day} May" for day in range(1, 4 + number % 2)]
    about = {"person": f"p{number}", "born": None if number % 3 else number}
    return {"question": "when", "choices": choices, "answer": number % 3, "about": about, "weight": 0.5, **more}


def written(file: Path, rows: list[dict[str, Any]], **how: Any) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), file, **how)
    return file


def unnamed(capability: Capability) -> dict[str, set[Any]]:
    """The items without what they are called, which names their file."""
    parts = ("attack", "select", "certify", "retain", "utility")
    return {part: {replace(item, id="") for item in getattr(capability, part)} for part in parts}


@pytest.mark.parametrize(
    "how",
    [{}, {"use_dictionary": False}, {"compression": "zstd", "row_group_size": 7}, {"data_page_version": "2.0"}, SPARK],
)
def test_the_rows_are_those_of_the_same_json_lines(tmp_path: Path, how: dict[str, Any]) -> None:
    for side, numbers in (("forget", range(20)), ("retain", range(20, 30))):
        rows = [row(number) for number in numbers]
        written(tmp_path / f"{side}.PARQUET", rows, **how)
        (tmp_path / f"{side}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    (tmp_path / "lines.toml").write_text(TOML)
    (tmp_path / "parquet.toml").write_text(TOML.replace("jsonl", "PARQUET"))
    found = load_capability(tmp_path / "parquet.toml")
    assert unnamed(found) == unnamed(load_capability(tmp_path / "lines.toml"))
    assert {item.id for item in found.forget} == {f"forget.PARQUET:{number}" for number in range(1, 21)}


def test_more_texts_in_lists_than_a_dictionary_takes(tmp_path: Path) -> None:
    rows = [{"choices": [f"{number}-{place}" * 20 for place in range(4)]} for number in range(8000)]
    file = written(tmp_path / "a.parquet", rows, dictionary_pagesize_limit=2**16, row_group_size=3000)
    assert [found for _, found in parquet_rows(file)] == rows


def test_values_come_as_python_has_them(tmp_path: Path) -> None:
    rows = [{"n": 2**60, "x": 0.1, "t": "\u2028\n\x00é", "l": [["a"], []], "s": {"b": True, "none": None}, "e": None}]
    assert list(parquet_rows(written(tmp_path / "a.parquet", rows))) == [(1, rows[0])]


def test_categories_are_their_texts_and_numbers(tmp_path: Path) -> None:
    table = pa.table({"t": pa.array(["a", "b", "a"]).dictionary_encode(), "n": pa.array([7, 7, 9]).dictionary_encode()})
    pq.write_table(table, tmp_path / "a.parquet")
    found = [row for _, row in rows_of(tmp_path / "a.parquet")]
    assert found == [{"t": "a", "n": 7}, {"t": "b", "n": 7}, {"t": "a", "n": 9}]


def test_a_row_that_is_wrong_is_named_by_its_number(tmp_path: Path) -> None:
    written(tmp_path / "forget.parquet", [*(row(number) for number in range(4)), row(4, answer=9)])
    (tmp_path / "c.toml").write_text(TOML.replace("forget.jsonl", "forget.parquet"))
    with pytest.raises(InputError, match=r"forget\.parquet:5: 'answer' is no index"):
        load_capability(tmp_path / "c.toml")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no data file"):
        rows_of(tmp_path / "none.parquet")


def refusal(file: Path) -> str:
    with pytest.raises(InputError) as caught:
        list(parquet_rows(file))
    assert len(str(caught.value).splitlines()) == 1
    assert str(caught.value).isprintable()
    return str(caught.value)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"<html></html>", b"PAR1" + b"\xff" * 100 + b"PAR1", b"{}\n"])
def test_what_is_no_parquet_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.parquet").write_bytes(content)
    assert "a.parquet is no readable Parquet file" in refusal(tmp_path / "a.parquet")


BIG = "x" * 1_000_000


def one_text_often() -> pa.Table:
    return pa.table({"t": pa.DictionaryArray.from_arrays(pa.array([0] * 50_000, pa.int32()), pa.array([BIG]))})


def one_text_in_many_lists() -> pa.Table:
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * 50_000, pa.int32()), pa.array([BIG]))
    return pa.table({"t": pa.ListArray.from_arrays(pa.array(range(0, 50_001, 1000), pa.int32()), texts)})


def texts_of_one_length() -> pa.Table:
    return pa.table({"t": pa.array([BIG.encode()] * 100, pa.binary(len(BIG)))})


PLAIN = {"use_dictionary": False, "compression": "zstd"}
ALIKE = {"use_dictionary": False, "column_encoding": {"t": "DELTA_BYTE_ARRAY"}, "compression": "none"}
BOMBS = {
    "one text, fifty thousand times": (one_text_often, {}, "holds rows of more than"),
    "the same in lists": (one_text_in_many_lists, {"store_schema": False}, "is no readable Parquet file (malloc"),
    "zeros": (lambda: pa.table({"t": pa.array([0] * 3_000_000)}), PLAIN, "rows and values"),
    "nothing, often": (lambda: pa.table({"t": pa.nulls(50_000_000, pa.int8())}), {}, "rows and values"),
    "compressed": (lambda: pa.table({"t": pa.array([BIG * 50])}), PLAIN, "says that it holds 5"),
    "texts of one length": (texts_of_one_length, {}, "says that it holds 1000"),
    "texts that begin alike": (lambda: pa.table({"t": pa.array([BIG] * 150)}), ALIKE, "holds rows of more than"),
    "a long name": (lambda: pa.table({BIG[:200_000]: pa.array(range(1000))}), {}, "holds rows of more than"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_small_file_that_is_large_in_memory_is_refused(tmp_path: Path, name: str) -> None:
    make, how, says = BOMBS[name]
    pq.write_table(make(), tmp_path / "a.parquet", **how)
    assert (tmp_path / "a.parquet").stat().st_size < 4_000_000
    assert says in refusal(tmp_path / "a.parquet")


def test_what_arrow_ends_the_process_over_is_refused(tmp_path: Path) -> None:
    """A column that is said to have no missing values, beside statistics of how many it has of either."""
    file = written(tmp_path / "a.parquet", [{"weight": 0.5}])
    optional = b"\x15\x0a\x25\x02\x18\x06weight"  # type, repetition and name in Thrift's compact form
    assert file.read_bytes().count(optional) == 1
    file.write_bytes(file.read_bytes().replace(optional, optional.replace(b"\x25\x02", b"\x25\x00")))
    assert "its library gave up" in refusal(file)


@pytest.mark.slow
@pytest.mark.parametrize("compression", ["none", "snappy"])
def test_damaged_files_are_read_or_refused(tmp_path: Path, compression: str) -> None:
    file = written(tmp_path / "a.parquet", [row(number) for number in range(40)], compression=compression)
    whole = file.read_bytes()
    read, refused = 0, set()
    for seed in range(60):
        draw, damaged = random.Random(seed), bytearray(whole)
        for _ in range(draw.choice([1, 1, 2, 5])):
            damaged[draw.randrange(len(whole))] = draw.choice([0, 127, 128, 255, draw.randrange(256)])
        file.write_bytes(damaged if seed % 10 else damaged[: draw.randrange(len(whole))])
        try:
            read += len(list(parquet_rows(file))) > 0
        except InputError:
            refused.add(refusal(file))
    assert read > 3
    assert len(refused) > 10


def test_one_of_several_is_refused(tmp_path: Path) -> None:
    files = [written(tmp_path / f"{n}.parquet", [row(n)]) for n in range(3)]
    refuse_inflated(files)
    refuse_inflated([])
    pq.write_table(pa.table({"t": pa.nulls(50_000_000, pa.int8())}), files[1])
    with pytest.raises(InputError, match=r"1\.parquet has \d+ bytes and says that it holds 100000000 rows"):
        refuse_inflated(files)


def test_one_that_takes_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "PATIENCE", 0.001)
    assert "is not read within" in refusal(written(tmp_path / "a.parquet", [row(0)]))


def test_without_pyarrow_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    assert "needs pyarrow, which is not installed. pip install 'unlearning-redteam[parquet]'" in refusal(
        written(tmp_path / "a.parquet", [row(0)])
    )
