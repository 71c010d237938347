"""Which targets the table holds."""

from __future__ import annotations

import pytest

from redteam.bench.plan import PARTIAL, REAL_DATA, THEN, Cell, plan_cells
from redteam.errors import InputError
from redteam.registry import METHODS, TESTBEDS


@pytest.fixture(autouse=True)
def _all_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDTEAM_DATA", "somewhere")


KIND = {row["name"]: row["kinds"] for row in TESTBEDS.described()}
WORKS = {row["name"]: row["kinds"] for row in METHODS.described()}


def test_every_method_is_on_every_testbed_of_its_kind_on_every_seed() -> None:
    plain = {(c.testbed, c.method, c.seed) for c in plan_cells() if c.label_fraction == 1 and not c.then}
    pairs = {(t, m) for t, kind in KIND.items() for m, kinds in WORKS.items() if kind in kinds}
    assert plain == {(t, m, seed) for t, m in pairs for seed in range(8 if t == "poison" else 3)}


def test_no_cell_comes_twice_and_names_tell_cells_apart() -> None:
    cells = plan_cells()
    assert len(set(cells)) == len(cells)
    assert len({cell.name for cell in cells}) == len(cells)


def test_the_variations_that_the_questions_ask_for_are_there() -> None:
    cells = set(plan_cells())
    for testbed, (methods, fractions) in PARTIAL.items():
        for method in methods:
            for fraction in (*fractions, 1.0):
                assert Cell(testbed=testbed, method=method, label_fraction=fraction, seed=2) in cells
    for testbed, stages in THEN.items():
        for then, methods in stages.items():
            for method in methods:
                assert Cell(testbed=testbed, method=method, then=then, seed=0) in cells


def test_what_is_given_narrows_the_table() -> None:
    cells = plan_cells(["facts"], ["rmu", "filtered"], [0.5, 1.0], [7])
    assert {(c.testbed, c.method, c.label_fraction, c.then, c.seed) for c in cells} == {
        ("facts", method, fraction, "", 7) for method in ("rmu", "filtered") for fraction in (0.5, 1.0)
    }


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({"testbeds": ["fcats"]}, "Did you mean 'facts'"),
        ({"methods": ["rum"]}, "Did you mean 'rmu'"),
        ({"label_fractions": [1.5]}, "1.5"),
        ({"label_fractions": [float("nan")]}, "nan"),
    ],
)
def test_what_does_not_exist_is_refused(given, word: str) -> None:
    with pytest.raises(InputError, match=word):
        plan_cells(**given)


def test_names() -> None:
    cell = Cell(testbed="facts", method="ssd", label_fraction=0.25, then="retain", seed=3)
    assert (cell.variant, cell.name) == ("facts-ssd-0.25-then-retain", "facts-ssd-0.25-then-retain-seed3")
    assert Cell(testbed="facts", method="ssd").variant == "facts-ssd"


def test_a_testbed_without_its_data_is_left_out_unless_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REDTEAM_DATA")
    assert {cell.testbed for cell in plan_cells()} == KIND.keys() - set(REAL_DATA)
    assert {cell.testbed for cell in plan_cells(["birthdays"])} == {"birthdays"}
