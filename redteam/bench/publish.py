"""Runs the table and writes what it says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from redteam.atomic import write
from redteam.bench.claims import claims
from redteam.bench.leaderboard import leaderboard, leaderboard_json
from redteam.bench.plan import Cell
from redteam.bench.rows import read_rows
from redteam.bench.run import TARGETS, Places, identity_of, is_recorded, run_cells
from redteam.errors import InputError


def publish(
    cells: Sequence[Cell],
    places: Places,
    *,
    budget: int,
    jobs: int,
    only_write: bool = False,
    report: Callable[[int], None] = lambda done: None,
) -> list[Path]:
    """Runs the cells that have no row yet and writes leaderboard and claims from all rows of the same identity.

    Rows of another budget or of earlier versions are left where they are, and out of the tables.

    Args:
        cells: of the table.
        places: where.
        budget: search trials of each attack.
        jobs: processes.
        only_write: write the tables and run nothing.
        report: hears how many of the cells are done.

    Returns:
        What was written.

    Raises:
        InputError: nothing to run, numbers that make no sense, a broken row, or a place that cannot be written.
    """
    if budget < 1 or jobs < 1:
        raise InputError(f"the budget is {budget} and the number of jobs {jobs}", "Give at least 1 of each")
    if not cells:
        raise InputError("no method of these works on such a testbed", "See `redteam list methods`")
    if not only_write:
        recorded: set[Cell] = set()  # what is there stays there, and need not be read again

        def count() -> None:
            recorded.update(c for c in cells if c not in recorded and is_recorded(c, places, budget))
            report(len(recorded))

        count()
        try:
            run_cells(cells, places, budget=budget, jobs=jobs, done=count)
        except OSError as error:
            raise InputError(f"the table cannot be written ({error})", "Choose another --out") from error
    found = read_rows(places.results / TARGETS)
    rows = [row for row in found if row.identity == identity_of(row.of, budget)]
    if not rows:
        stale = f" of this budget and these versions, but {len(found)} others" if found else ""
        raise InputError(f"there are no rows in {places.results / TARGETS}{stale}", "Run `redteam bench` first")
    texts = {"leaderboard.md": leaderboard(rows), "leaderboard.json": leaderboard_json(rows), "claims.md": claims(rows)}
    written = []
    for name, text in texts.items():
        write(places.results / name, text)
        written.append(places.results / name)
    return written
