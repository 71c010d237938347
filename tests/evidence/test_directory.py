from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_events import before as released
from made_events import trial

from redteam.errors import InputError
from redteam.evidence.directory import RunDirectory, RunPlan, read_plan
from redteam.evidence.events import TrialEvent
from redteam.evidence.log import AppendLog

PLAN = RunPlan(
    suite="standard-1",
    target="a" * 64,
    original="b" * 64,
    reference=None,
    descriptions={"target": "1" * 64},
    capability=("birthdays", "c" * 64),
    attacks={"retrain": 1, "prune": 2},
    probes={"linear": 1},
    budget=100,
    seed=0,
)
CHANGES = {
    "schema_version": 2,
    "suite": "standard-2",
    "target": "d" * 64,
    "original": None,
    "reference": "e" * 64,
    "descriptions": {"target": "2" * 64},
    "capability": ("birthdays", "f" * 64),
    "access": "text",
    "attacks": {"retrain": 2, "prune": 2},
    "probes": {},
    "budget": 99,
    "seed": 1,
    "extends": (50,),
    "further_references": ("9" * 64,),
}


def read_rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def contents(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir()}


def test_every_field_of_a_plan_can_be_changed_here():
    assert set(CHANGES) == set(RunPlan.model_fields)


@pytest.mark.parametrize("name", CHANGES)
def test_the_fingerprint_depends_on_every_field(name):
    changed = PLAN.model_copy(update={name: CHANGES[name]})
    assert changed.fingerprint != PLAN.fingerprint
    assert RunPlan.model_validate(PLAN.model_dump()).fingerprint == PLAN.fingerprint


def test_the_fingerprint_does_not_depend_on_the_order_of_attacks():
    turned = PLAN.model_copy(update={"attacks": {"prune": 2, "retrain": 1}})
    assert turned == PLAN
    assert turned.fingerprint == PLAN.fingerprint


def test_capability_name_and_digest_do_not_run_together():
    assert (
        PLAN.model_copy(update={"capability": ("a", "bc")}).fingerprint
        != PLAN.model_copy(update={"capability": ("ab", "c")}).fingerprint
    )


def test_a_new_directory_is_made_with_its_parents(tmp_path):
    path = tmp_path / "results" / "runs" / "one"
    with RunDirectory(path, PLAN) as run:
        assert not run.resumed
        assert not run.events.by_key
    assert read_plan(path) == PLAN
    assert json.loads((path / "manifest.json").read_text())["environment"]["python"]


def test_evidence_is_found_again(tmp_path):
    with RunDirectory(tmp_path / "run", PLAN) as run:
        run.record(released("target", select=0.5), {"select": [0.0, 1.0]})
        run.record(trial("target/search/0000", value=0.25))
        events = dict(run.events.by_key)
    assert list(events) == ["target/before", "target/search/0000"]
    with RunDirectory(tmp_path / "run", PLAN) as run:
        assert run.resumed
        assert run.events.by_key == events
        assert [found.value for found in run.events.trials("target", "search")] == [0.25]


def test_a_directory_is_held_by_one_at_a_time(tmp_path):
    with RunDirectory(tmp_path / "run", PLAN), pytest.raises(InputError, match="another process is running"):
        RunDirectory(tmp_path / "run", PLAN)
    RunDirectory(tmp_path / "run", PLAN).close()


def test_a_directory_is_held_against_other_processes_and_let_go_when_killed(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from redteam.evidence.directory import RunDirectory, RunPlan\n"
        "run = RunDirectory(Path(sys.argv[1]), RunPlan.model_validate_json(sys.argv[2]))\n"
        "print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "run"), PLAN.model_dump_json()], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    with holder, holder.stdout:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(InputError, match="another process is running"):
            RunDirectory(tmp_path / "run", PLAN)
        holder.kill()
        holder.wait()
    with RunDirectory(tmp_path / "run", PLAN) as run:
        assert run.resumed


@pytest.mark.parametrize("name", ["notes.txt", "events.jsonl", ".hidden", "folder"])
def test_a_foreign_directory_is_refused_and_left_as_it_was(name, tmp_path):
    if name == "folder":
        (tmp_path / name).mkdir()
    else:
        (tmp_path / name).write_text("mine\n")
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(InputError, match="no run directory"):
        RunDirectory(tmp_path, PLAN)
    assert sorted(os.listdir(tmp_path)) == before
    assert name == "folder" or (tmp_path / name).read_text() == "mine\n"


def test_a_foreign_lock_file_is_left_as_it_was(tmp_path):
    (tmp_path / ".lock").write_text("pid 17\n")
    (tmp_path / "notes.txt").write_text("mine\n")
    before = contents(tmp_path)
    with pytest.raises(InputError, match="no run directory"):
        RunDirectory(tmp_path, PLAN)
    assert contents(tmp_path) == before


def test_an_empty_directory_is_taken(tmp_path):
    with RunDirectory(tmp_path, PLAN) as run:
        assert not run.resumed


@pytest.mark.parametrize("name", CHANGES)
def test_the_run_of_another_plan_is_refused_and_nothing_changes(name, tmp_path):
    with RunDirectory(tmp_path / "run", PLAN) as run:
        run.record(trial("target/search/0000", value=0.25), {"select@4": [1.0]})
        run.write_results("{}\n")
    with (tmp_path / "run" / "events.jsonl").open("a") as events:
        events.write("torn")
    before = contents(tmp_path / "run")
    with pytest.raises(InputError, match=rf"another plan \(it differs in: {name}\)"):
        RunDirectory(tmp_path / "run", PLAN.model_copy(update={name: CHANGES[name]}))
    assert contents(tmp_path / "run") == before


def test_a_refusal_lets_go_of_the_directory(tmp_path):
    RunDirectory(tmp_path / "run", PLAN).close()
    with pytest.raises(InputError) as refusal:
        RunDirectory(tmp_path / "run", PLAN.model_copy(update={"seed": 1}))
    assert "seed" in str(refusal.value)  # it is still held here, and with it the frame that opened the lock
    RunDirectory(tmp_path / "run", PLAN).close()


def test_a_file_in_the_place_of_a_directory_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine\n")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(InputError, match="cannot be written"):
            RunDirectory(path, PLAN)
    assert (tmp_path / "file").read_text() == "mine\n"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "7",
        "null",
        "{}",
        '{"budget": 1}',
        "\xff",
        "[]",
    ],
)
def test_a_manifest_that_cannot_be_read_is_an_input_error(text, tmp_path):
    (tmp_path / "manifest.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match=r"no readable manifest\.json"):
        read_plan(tmp_path)
    with pytest.raises(InputError, match=r"no readable manifest\.json"):
        RunDirectory(tmp_path, PLAN)


def test_a_directory_without_a_manifest_has_no_plan(tmp_path):
    with pytest.raises(InputError, match=r"no readable manifest\.json"):
        read_plan(tmp_path)


class PowerCut(BaseException):
    pass


def _cut(*_: object) -> None:
    raise PowerCut


def test_the_manifest_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", _cut)
    with pytest.raises(PowerCut):
        RunDirectory(tmp_path / "run", PLAN)
    assert not (tmp_path / "run" / "manifest.json").exists()


@pytest.mark.parametrize("left", [".redteam-k3x_q/manifest.json", "manifest.json.part"])
def test_a_start_killed_while_writing_the_manifest_can_be_repeated(tmp_path, left):
    (tmp_path / ".lock").touch()
    (tmp_path / left).parent.mkdir(exist_ok=True)
    (tmp_path / left).write_text('{"schema_ver')
    with RunDirectory(tmp_path, PLAN) as run:
        assert not run.resumed


def test_results_are_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    with RunDirectory(tmp_path / "run", PLAN) as run:
        path = run.write_results('{"exit_code": 3}\n')
        assert path == tmp_path / "run" / "results.json"
        inode = path.stat().st_ino
        monkeypatch.setattr(os, "fsync", _cut)
        with pytest.raises(PowerCut):
            run.write_results('{"exit_code": 0}\n')
        assert path.read_text() == '{"exit_code": 3}\n'
        monkeypatch.undo()
        run.write_results('{"exit_code": 0}\n')
        assert path.read_text() == '{"exit_code": 0}\n'
        assert path.stat().st_ino != inode  # put in its place, not written over
    assert sorted(os.listdir(tmp_path / "run")) == [
        ".lock",
        "events.jsonl",
        "manifest.json",
        "results.json",
        "samples.jsonl",
    ]


def test_samples_are_recorded_before_their_event(tmp_path, monkeypatch):
    order = []
    append = AppendLog.append

    def watched(self, row):
        append(self, row)
        order.append((self.path.name, row.get("name", row["key"])))

    monkeypatch.setattr(AppendLog, "append", watched)
    with RunDirectory(tmp_path / "run", PLAN) as run:
        run.record(trial("t/0"), {"select@1": [1.0], "select@2": [0.0]})
    assert order == [("samples.jsonl", "select@1"), ("samples.jsonl", "select@2"), ("events.jsonl", "t/0")]


def test_an_event_that_was_not_written_is_not_remembered(tmp_path, monkeypatch):
    with RunDirectory(tmp_path / "run", PLAN) as run:
        append = AppendLog.append
        monkeypatch.setattr(AppendLog, "append", lambda self, row: _cut() if "type" in row else append(self, row))
        with pytest.raises(PowerCut):
            run.record(trial("t/0"), {"select@1": [1.0]})
        monkeypatch.undo()
        assert not run.events.by_key
        run.record(trial("t/0", value=1.0), {"select@1": [0.0]})
        assert [event.value for event in run.events.by_key.values() if isinstance(event, TrialEvent)] == [1]
    rows = read_rows(tmp_path / "run" / "samples.jsonl")
    assert [row["scores"] for row in rows] == [[1], [0]]  # the orphan stays; readers take the later one


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_is_refused(bad, tmp_path):
    with RunDirectory(tmp_path / "run", PLAN) as run:
        with pytest.raises(ValueError, match="finite number"):
            run.record(trial("t/0", value=bad))
        with pytest.raises((ValueError, OverflowError)):
            run.record(trial("t/1"), {"select@1": [0.5, bad]})
        assert not run.events.by_key
    assert read_rows(tmp_path / "run" / "events.jsonl") == []
    assert read_rows(tmp_path / "run" / "samples.jsonl") == []


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(0, 1) | st.sampled_from([0.0, 1.0]), min_size=1, max_size=20))
def test_scores_keep_six_decimals_and_ones_and_zeros_are_whole(tmp_path_factory, scores):
    path = tmp_path_factory.mktemp("run")
    with RunDirectory(path, PLAN) as run:
        run.record(released("target"), {"certify": scores})
    (row,) = read_rows(path / "samples.jsonl")
    assert row["scores"] == pytest.approx(scores, abs=5.1e-7)
    assert all(isinstance(kept, int) for kept, score in zip(row["scores"], scores, strict=True) if score in (0, 1))
