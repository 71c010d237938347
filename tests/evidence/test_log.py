from __future__ import annotations

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from redteam.evidence.evidence import read_evidence
from redteam.evidence.log import AppendLog, read_lines

ROWS = [
    {"key": "a", "n": 1},
    {"key": "ü\n\u2028", "scores": [0, 0.5, 1]},
    {"key": "c", "nested": {"x": [None, "}\n{"]}},
]


def read_rows(path):
    return list(read_lines(path.read_bytes(), path, json.loads))


def written(path, rows):
    log = AppendLog(path)
    for row in rows:
        log.append(row)
    log.close()
    return path.read_bytes()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None)
@given(st.lists(st.dictionaries(st.text(), json_values, max_size=3), max_size=5))
def test_rows_come_back_as_they_were(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("log") / "events.jsonl"
    content = written(path, rows)
    assert read_rows(path) == rows
    assert content.count(b"\n") == len(rows)  # one line each, whatever is in it
    assert all(json.loads(line) == row for line, row in zip(content.splitlines(), rows, strict=True))


def test_a_log_that_is_not_there_has_no_events(tmp_path):
    found = read_evidence(tmp_path)
    assert not found.by_key
    assert not found.samples


def test_a_row_is_on_disk_when_append_returns(tmp_path):
    """Read by another handle, before the log is closed: what SIGKILL would leave."""
    log = AppendLog(tmp_path / "events.jsonl")
    large = {"scores": [1] * 20_000}  # larger than any buffer
    for count, row in enumerate([*ROWS, large], 1):
        log.append(row)
        assert len(read_rows(tmp_path / "events.jsonl")) == count
    log.close()


@pytest.mark.parametrize("number", range(len(ROWS)))
def test_a_line_torn_at_any_byte_is_left_out_and_later_rows_survive(number, tmp_path):
    path = tmp_path / "events.jsonl"
    whole = written(path, ROWS[: number + 1])
    start = whole.rfind(b"\n", 0, -1) + 1
    assert start < len(whole) - 1
    for cut in range(start, len(whole)):  # the newline itself is the last byte to be lost
        path.write_bytes(whole[:cut])
        assert read_rows(path) == ROWS[:number]
        assert path.read_bytes() == whole[:cut]  # reading changes nothing
        added = {"key": "later", "cut": cut}
        written(path, [added])
        assert read_rows(path) == [*ROWS[:number], added]
        assert path.read_bytes().startswith(whole[:start])


def test_whole_lines_are_never_cut_on_opening(tmp_path):
    whole = written(tmp_path / "events.jsonl", ROWS)
    assert written(tmp_path / "events.jsonl", []) == whole
    assert written(tmp_path / "new.jsonl", []) == b""


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_row_that_is_no_json_is_refused_and_leaves_nothing(bad, tmp_path):
    log = AppendLog(tmp_path / "events.jsonl")
    log.append({"n": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        log.append({"scores": [0.5, bad]})
    with pytest.raises(TypeError):
        log.append({"scores": object()})
    log.append({"n": 2})
    log.close()
    assert read_rows(tmp_path / "events.jsonl") == [{"n": 1}, {"n": 2}]
