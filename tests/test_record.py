"""Records, intervals and costs refuse what they do not know, and are written as they always were."""

from __future__ import annotations

import json

import numpy as np
import pytest
from pydantic import Field, ValidationError

from redteam.record import Cost, Interval, Record


class Row(Record):
    """Holds one of each."""

    share: Interval | None = None
    costs: dict[str, Cost] = Field(default={})


WRITTEN = (
    '{"share":{"estimate":0.5,"low":0.25,"high":1.0},"costs":{"method":{"flops":1e12,"seconds":2.5,"peak_bytes":7}}}'
)


def test_what_is_written_is_read_again() -> None:
    row = Row(share=Interval(0.5, 0.25, 1.0), costs={"method": Cost(flops=1e12, seconds=2.5, peak_bytes=7)})
    assert json.loads(row.model_dump_json()) == json.loads(WRITTEN)
    assert Row.model_validate_json(WRITTEN) == row == Row.model_validate(json.loads(WRITTEN))


def test_a_number_of_numpy_is_written_as_a_number() -> None:
    row = Row(share=Interval(np.float64(0.1), np.float64(0.0), np.float64(1.0)))
    assert json.loads(row.model_dump_json())["share"] == {"estimate": 0.1, "low": 0.0, "high": 1.0}


@pytest.mark.parametrize(
    ("share", "where"),
    [
        ({"estimate": 0.5, "low": 0.25}, "high"),
        ({"estimate": 0.5, "low": 0.25, "high": 1.0, "hihg": 1.0}, "hihg"),
        ({"estimate": "half", "low": 0.25, "high": 1.0}, "estimate"),
    ],
    ids=["lacking", "unknown", "no number"],
)
def test_an_interval_that_is_none_is_refused(share: dict, where: str) -> None:
    with pytest.raises(ValidationError) as refused:
        Row.model_validate({"share": share})
    (error,) = refused.value.errors()
    assert error["loc"] == ("share", where)


def test_a_cost_with_an_unknown_key_is_refused() -> None:
    with pytest.raises(ValidationError, match="gpus"):
        Row.model_validate({"costs": {"x": {"flops": 1.0, "seconds": 1.0, "peak_bytes": 1, "gpus": 1}}})


def test_a_record_is_frozen_and_refuses_unknown_keys() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Row().share = None
    with pytest.raises(ValidationError, match="Extra inputs"):
        Row.model_validate({"shares": None})
