"""The one error that a user sees."""

from __future__ import annotations

import pickle

import pytest

from redteam.errors import MAX_FOUND, MAX_REMEDY, InputError
from redteam.unlearning.masked import Unmaskable


@pytest.mark.parametrize("kind", [InputError, Unmaskable])
def test_it_crosses_from_one_process_to_another(kind: type[InputError]) -> None:
    error = kind("it is broken", "Mend it")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert (again.found, again.remedy, str(again)) == (error.found, error.remedy, str(error))


def test_a_message_is_short_however_long_what_it_quotes() -> None:
    error = InputError("model.pt names " + "x" * 10**6 + ", which is no tensor", "y" * 10**6)
    assert error.found.startswith("model.pt names xxx")
    assert error.found.endswith("xxx, which is no tensor")
    assert len(str(error)) <= MAX_FOUND + MAX_REMEDY + 2
    whole = InputError("f" * MAX_FOUND, "r" * MAX_REMEDY)
    assert (whole.found, whole.remedy) == ("f" * MAX_FOUND, "r" * MAX_REMEDY)
