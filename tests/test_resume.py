"""A run that is killed anywhere and repeated gives the result of the uninterrupted run."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest
from run_redteam import redteam, start_redteam

QUICK = Path(__file__).with_name("quick_attack.py")


def _arguments(untrained: Path, run: Path) -> list[str | Path]:
    probes = ["--probe", "means", "--probe", "mdl"]
    return ["attack", untrained, "-a", f"{QUICK}:Quick", *probes, "--budget", "6", "--out", run]


@pytest.fixture(scope="module")
def uninterrupted(untrained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("uninterrupted") / "run"
    done = redteam(*_arguments(untrained, run))
    assert done.returncode == 3, done.stderr
    return run


def _events(run: Path) -> int:
    log = run / "events.jsonl"
    return log.read_bytes().count(b"\n") if log.exists() else 0


def _stopped(arguments: list[str | Path], run: Path, events: int, by: signal.Signals) -> tuple[int, str]:
    """Sends a signal once `events` events are on disk; the next trial waits for it, so no run ends first."""
    hold = {"HOLD_LOG": str(run / "events.jsonl"), "HOLD_EVENTS": str(events)}
    process = start_redteam(*arguments, cwd=run.parent, **hold)
    while _events(run) < events and process.poll() is None:
        time.sleep(0.002)
    assert process.poll() is None, "the run ended before it could be stopped"
    process.send_signal(by)
    _, stderr = process.communicate(timeout=60)
    return process.returncode, stderr


def _trials(run: Path) -> dict[str, tuple[object, ...]]:
    rows = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    trials = [row for row in rows if row["type"] == "trial"]
    assert len({row["key"] for row in trials}) == len(trials), "a trial was run twice"
    return {row["key"]: (row["params"], row["seed"], row["points"], row["loss"]) for row in trials}


@pytest.mark.parametrize(
    "events",
    [
        5,
        *(pytest.param(events, marks=pytest.mark.slow) for events in (1, 7, 9, 12, 20, 32)),
        24,
    ],
)
def test_killed_and_repeated(events: int, untrained: Path, uninterrupted: Path, tmp_path: Path) -> None:
    """SIGKILL once `events` events are on disk: before the first trial, in each search phase, in each arm."""
    run = tmp_path / "run"
    _stopped(_arguments(untrained, run), run, events, signal.SIGKILL)
    assert not (run / "results.json").exists()
    done = redteam(*_arguments(untrained, run))
    assert done.returncode == 3, done.stderr
    assert json.loads((run / "results.json").read_text()) == json.loads((uninterrupted / "results.json").read_text())
    assert _trials(run) == _trials(uninterrupted)


def test_a_torn_line_is_run_again(untrained: Path, uninterrupted: Path, tmp_path: Path) -> None:
    """What a power cut leaves: half a line at the end of both logs."""
    run = tmp_path / "run"
    run.mkdir()
    for file in uninterrupted.iterdir():
        if file.name != "results.json":
            (run / file.name).write_bytes(file.read_bytes())
    for name in ("events.jsonl", "samples.jsonl"):
        lines = (run / name).read_bytes().splitlines(keepends=True)
        (run / name).write_bytes(b"".join(lines[:-6]) + lines[-6][: len(lines[-6]) // 2])
    (run / "study.db").unlink()
    assert redteam(*_arguments(untrained, run)).returncode == 3
    assert json.loads((run / "results.json").read_text()) == json.loads((uninterrupted / "results.json").read_text())


def test_interrupt_leaves_a_run_to_go_on_with(untrained: Path, uninterrupted: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    code, stderr = _stopped(_arguments(untrained, run), run, 8, signal.SIGINT)
    assert code == 130, stderr
    assert "the same command goes on" in stderr
    assert "Traceback" not in stderr
    done = len(_trials(run))
    again = redteam(*_arguments(untrained, run))
    assert again.returncode == 3
    assert f"resumed: {done} trials are done already" in again.stderr
    assert json.loads((run / "results.json").read_text()) == json.loads((uninterrupted / "results.json").read_text())


def test_two_processes_do_not_share_a_run(untrained: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    hold = {"HOLD_LOG": str(run / "events.jsonl"), "HOLD_EVENTS": "2"}
    process = start_redteam(*_arguments(untrained, run), cwd=tmp_path, **hold)
    while _events(run) < 2 and process.poll() is None:
        time.sleep(0.01)
    second = redteam(*_arguments(untrained, run))
    process.kill()
    process.communicate()
    assert second.returncode == 2
    assert "another process is running" in second.stderr


def test_a_finished_run_is_only_judged_again(untrained: Path, uninterrupted: Path) -> None:
    before = (uninterrupted / "events.jsonl").read_bytes()
    assert redteam(*_arguments(untrained, uninterrupted)).returncode == 3
    assert (uninterrupted / "events.jsonl").read_bytes() == before
