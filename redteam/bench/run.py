"""Builds, attacks and records the cells of the table. What is recorded is not run again."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from itertools import groupby
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

from redteam.atomic import write
from redteam.bench.plan import REFERENCES, Cell
from redteam.bench.rows import Row, failed_row, read_row, row_of
from redteam.evidence.directory import lock
from redteam.registry import ATTACKS, METHODS, PROBES, STANDARD_ATTACKS, SUITE, TESTBEDS

if TYPE_CHECKING:
    from redteam.suite.memo import Memo
    from redteam.testbeds.build import TargetSpec, World

BUDGET = 48
TABLE_PROBES = ("linear",)  # what the others read is in a target's own report
TARGETS = "targets"  # below the folder of results


@dataclass(frozen=True, kw_only=True, slots=True)
class Places:
    """Where the table is made.

    Attributes:
        results: rows, leaderboard and claims; what is published.
        models: targets, with their original and reference beside them.
        runs: run directories.
    """

    results: Path = Path("results")
    models: Path = Path("models/bench")
    runs: Path = Path("results/runs/bench")

    def world(self, cell: Cell) -> Path:
        """Returns the folder of the targets of one testbed and seed."""
        return self.models / f"{cell.testbed}-seed{cell.seed}"

    def row(self, cell: Cell) -> Path:
        """Returns the file of a cell's row."""
        return self.results / TARGETS / f"{cell.name}.json"


def run_cells(
    cells: Sequence[Cell], places: Places, *, budget: int = BUDGET, jobs: int = 1, done: Callable[[], None]
) -> None:
    """Runs every cell that has no row of the same identity yet.

    Cells of one testbed and seed share their trained models, so they go to one process.

    Args:
        cells: to run.
        places: where.
        budget: search trials of each attack.
        jobs: processes; each computes on one thread, so that a figure does not depend on their number.
        done: is called about once a second while the work goes on.

    Raises:
        InputError: a row's file is broken, or a place cannot be written.
    """
    missing = [cell for cell in cells if not is_recorded(cell, places, budget)]
    groups = [list(group) for _, group in groupby(sorted(missing, key=_world_of), key=_world_of)]
    groups.sort(key=len, reverse=True)  # the longest first, so that no process is left alone with it at the end
    context = get_context("spawn")
    pool = ProcessPoolExecutor(max_workers=jobs, mp_context=context, initializer=_begin_worker)
    try:
        waiting: set[Future[None]] = {pool.submit(run_group, group, places, budget) for group in groups}
        while waiting:
            finished, waiting = wait(waiting, timeout=1.0)
            done()
            for future in finished:
                future.result()
    except BaseException:
        for process in list((pool._processes or {}).values()):  # the executor itself would wait for what is running
            process.terminate()
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()


def is_recorded(cell: Cell, places: Places, budget: int) -> bool:
    """Returns whether there is a row of this cell's present identity."""
    row = read_row(places.row(cell))
    return row is not None and row.identity == identity_of(cell, budget)


def identity_of(cell: Cell, budget: int) -> dict[str, Any]:
    """Returns what a row is told apart by: versions of all that makes and attacks its target, settings, budget.

    The suite's name stands for the decoy and the judging as well.
    """
    from redteam.unlearning.options import create_method
    from redteam.unlearning.stages import FollowUp

    settings = dict(TESTBEDS.create(cell.testbed).settings.get(cell.method, {}))
    method: Any = create_method(cell.method, settings)
    versions = {
        f"{kind}:{name}": row["version"]
        for kind, registry, names in (
            ("method", METHODS, (cell.method, *getattr(method, "uses", ()))),
            ("testbed", TESTBEDS, (cell.testbed,)),
            ("attack", ATTACKS, STANDARD_ATTACKS),
            ("probe", PROBES, TABLE_PROBES),
        )
        for row in registry.described()
        if (name := row["name"]) in names
    }
    if cell.then:
        versions["stage"] = FollowUp.version
    references = REFERENCES.get(cell.testbed, 1)
    return {
        "suite": SUITE, "budget": budget, "versions": versions, "settings": settings, "references": references
    }  # fmt: skip


def run_group(cells: Sequence[Cell], places: Places, budget: int) -> None:
    """Trains one world and runs its cells, one after the other.

    Raises:
        InputError: another process does the same, or a place cannot be written.
    """
    from redteam.suite.memo import Memo
    from redteam.testbeds.build import train_world

    folder = places.world(cells[0])
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a") as file:
        lock(file, folder)
        first, memo = cells[0], Memo()
        world = train_world(first.testbed, seed=first.seed, references=REFERENCES.get(first.testbed, 1))
        for cell in cells:
            row = _row(cell, places, budget, world, memo)
            write(places.row(cell), json.dumps(row.model_dump(mode="json"), indent=1) + "\n")


def _row(cell: Cell, places: Places, budget: int, world: World, memo: Memo) -> Row:
    """Returns a cell's row. What fails outside the method (a full disk, a bug) is no row, and ends the work."""
    from redteam.unlearning.apply import MethodFailed

    identity = identity_of(cell, budget)
    try:
        return _run(cell, identity, world, places, budget, memo)
    except MethodFailed as error:  # it diverged, say: the table shows it, and it is never a score
        return failed_row(cell, identity, str(error))


def _run(cell: Cell, identity: Mapping[str, Any], world: World, places: Places, budget: int, memo: Memo) -> Row:
    from redteam.suite.attack import attack
    from redteam.testbeds.build import write_target

    target = places.world(cell) / cell.variant / "model.pt"
    target.parent.mkdir(parents=True, exist_ok=True)
    manifest = write_target(_spec(cell), world, target)
    run = places.runs / cell.name
    if run.exists():
        shutil.rmtree(run)  # of an earlier identity, or half done: the target was built anew
    results = attack(target, budget=budget, seed=cell.seed, out=run, probes=TABLE_PROBES, memo=memo)
    return row_of(cell, dict(identity), manifest, results, _measures(world, target))


def _spec(cell: Cell) -> TargetSpec:
    from redteam.testbeds.build import TargetSpec

    then: Any = cell.then or None
    return TargetSpec(method=cell.method, label_fraction=cell.label_fraction, then=then)


def _measures(world: World, target: Path) -> dict[str, dict[str, float]]:
    """Returns the testbed's further scores of the target, the original and the reference."""
    from redteam.capabilities.reading import encode_scoring
    from redteam.capabilities.scorers.contract import item_scores
    from redteam.checkpoints.load import open_target

    found: dict[str, dict[str, float]] = {}
    models = {"target": open_target(target).module, "original": world.original, "reference": world.reference}
    for name, items in world.testbed.measures(world.capability).items():
        encoded = encode_scoring(world.capability, items, world.testbed.tokenizer(), world.capability.utility_scorer)
        found[name] = {role: float(item_scores(model, encoded).mean()) for role, model in models.items()}
    return found


def _world_of(cell: Cell) -> tuple[int, str]:
    return cell.seed, cell.testbed


def _begin_worker() -> None:
    """Computes on one thread, and ends with the process that waits for it: two tables must not write in one place."""
    import torch

    torch.set_num_threads(1)
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
