"""The one error that a user sees."""

from __future__ import annotations

import pickle

import pytest

from redteam.errors import InputError
from redteam.unlearning.masked import Unmaskable


@pytest.mark.parametrize("kind", [InputError, Unmaskable])
def test_it_crosses_from_one_process_to_another(kind: type[InputError]) -> None:
    error = kind("it is broken", "Mend it")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert (again.found, again.remedy, str(again)) == (error.found, error.remedy, str(error))
