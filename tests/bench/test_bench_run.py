"""The table made by the real command: rows, tables, interruption."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import psutil
import pytest
from run_redteam import redteam, start_redteam

from redteam.bench.plan import REFERENCES, Cell
from redteam.bench.rows import read_row
from redteam.bench.run import Places, run_cells, run_group
from redteam.errors import InputError
from redteam.evidence.directory import lock
from redteam.testbeds.digits import Digits

pytestmark = pytest.mark.slow

TWO = ("bench", "--testbed", "digits", "--method", "original", "--method", "ssd", "--seed", "0", "--budget", "2")
ALL_LABELS = ("--label-fraction", "1")


def rows(folder: Path) -> dict[str, dict]:
    return {path.stem: json.loads(path.read_text()) for path in (folder / "results" / "targets").glob("*.json")}


def test_a_killed_table_goes_on_and_is_the_same_as_one_that_was_not(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
    done = redteam(*TWO, *ALL_LABELS, cwd=whole)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    made = rows(whole)
    assert set(made) == {"digits-original-seed0", "digits-ssd-seed0"}
    assert all(row["error"] is None for row in made.values())

    running = start_redteam(*TWO, *ALL_LABELS, cwd=killed)
    deadline = time.monotonic() + 300
    while not rows(killed):
        assert running.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    first = {path: path.stat().st_mtime_ns for path in (killed / "results" / "targets").glob("*.json")}
    running.send_signal(signal.SIGINT)
    assert running.wait(60) in (130, 0)  # 0 only if the last row was written in the same moment
    done = redteam(*TWO, *ALL_LABELS, cwd=killed)
    assert done.returncode == 0, done.stderr
    assert all(path.stat().st_mtime_ns == when for path, when in first.items())  # what was recorded stands

    again = rows(killed)
    assert again.keys() == made.keys()
    for name, row in made.items():
        for key in ("cell", "identity", "recovery", "alignment_tax", "measures", "target"):
            assert again[name][key] == row[key], (name, key)
        assert again[name]["cost"]["flops"] == row["cost"]["flops"]
    texts = [(folder / "results" / "leaderboard.md").read_text() for folder in (whole, killed)]
    assert texts[0] == texts[1]
    assert "**ssd**" in texts[0]
    manifest = json.loads(
        (whole / "models" / "bench" / "digits-seed0" / "digits-ssd" / "model.redteam.json").read_text()
    )
    assert len(manifest["further_references"]) == REFERENCES["digits"] - 1


def test_workers_end_with_a_killed_table(tmp_path: Path) -> None:
    """Two tables in one place would write over each other."""
    running = start_redteam(*TWO, *ALL_LABELS, cwd=tmp_path)
    deadline = time.monotonic() + 120
    workers: list[psutil.Process] = []
    while not (workers and list((tmp_path / "models").rglob(".lock"))):
        assert running.poll() is None
        assert time.monotonic() < deadline
        workers = [p for p in psutil.Process(running.pid).children() if "spawn_main" in " ".join(p.cmdline())]
        time.sleep(0.1)
    running.kill()
    running.wait()
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert not alive


def test_a_place_that_another_table_has_is_left_to_it(tmp_path: Path) -> None:
    places = Places(results=tmp_path, models=tmp_path / "models", runs=tmp_path / "runs")
    cell = Cell(testbed="digits", method="original")
    places.world(cell).mkdir(parents=True)
    with (places.world(cell) / ".lock").open("a") as file:
        lock(file, tmp_path)
        with pytest.raises(InputError, match="another process is running"):
            run_cells([cell], places, budget=1, done=lambda: None)  # in a process of its own
    assert read_row(places.row(cell)) is None


def test_a_method_that_diverges_is_a_row_with_an_error(tmp_path: Path) -> None:
    """Through a settings row that breaks it: in this process, so that it can be put there."""
    places = Places(results=tmp_path, models=tmp_path / "models", runs=tmp_path / "runs")
    cell = Cell(testbed="digits", method="graddiff")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Digits, "settings", {"graddiff": {"learning_rate": 1e30}})
        run_group([cell], places, budget=1)
    row = read_row(places.row(cell))
    assert row is not None
    assert row.error is not None
    assert "graddiff" in row.error
    assert row.recovery is None
