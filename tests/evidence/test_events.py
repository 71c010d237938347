"""The schema of the evidence: what is written is what is read, and what is no event is told by file, line and field."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made_events import capability, point, trial
from recorded_runs import NEVER_TRAINED, PLAN, judge_run, record
from run_redteam import redteam

import redteam as package
from redteam.errors import InputError
from redteam.evidence import keys
from redteam.evidence.directory import SCHEMA_OF, RunDirectory, read_plan
from redteam.evidence.events import (
    KINDS,
    NOTES,
    SCHEMA,
    BeforeEvent,
    CapabilityEvent,
    NoneNote,
    ProbeEvent,
    TrialEvent,
    UnfitNote,
    UnprobedNote,
)
from redteam.evidence.evidence import read_evidence
from redteam.evidence.log import read_events
from redteam.evidence.sealed import open_sealed

LOG = Path("run") / "events.jsonl"


def read(*rows: dict[str, Any]) -> list[Any]:
    return list(read_events("".join(json.dumps(row) + "\n" for row in rows).encode(), LOG))


def test_every_kind_of_event_is_in_the_tables() -> None:
    """A class that no line can become would be written and never read."""
    tree = ast.parse((Path(package.__file__).parent / "evidence" / "events.py").read_text())
    named = {node.name for node in tree.body if isinstance(node, ast.ClassDef) and re.search("Event$|Note$", node.name)}
    assert named - {"Event"} == {kind.__name__ for kind in (*KINDS.values(), *NOTES.values())}


BEFORE = {"type": "before", "key": "target/before", "time": 1.5, "select": 0.5, "certify": 0.25, "utility": 1.0}
PROBE = {
    "type": "probe",
    "key": "target/probe/mine.py:A/B",
    "time": 1.5,
    "probe": "mine.py:A/B",
    "layer": "",
    "by_layer": {},
}
NOTE = {"type": "note", "key": "target/unprobed/a", "time": 1.5}
POINT = {"steps": 1, "samples": 2, "tokens": 3, "flops": 4.0, "select": 0.5, "utility": 1.0}
TRIAL = {
    **{
        "type": "trial",
        "key": "target/search/0000",
        "time": 1.5,
        "attack": "a",
        "version": 2,
        "params": {"x": [1, None]},
    },
    **{"seed": 2**63, "state": "complete", "error": None, "diverged": False, "points": [POINT], "loss": None},
    **{"share_moved": 0.5, "seconds": {"total": 1.0}, "phase": "recipe", "value": None},
}
WRITTEN = {
    "before": (BEFORE, BeforeEvent),
    "before, two scorers": (
        BEFORE | {"certify:exact": 0.5, "certify:f1": 0.5, "model": {}, "unsteady": 0.5, "unused": {"mlp": [1, 2]}},
        BeforeEvent,
    ),
    "probe": (PROBE, ProbeEvent),
    "probe with its chance": (PROBE | {"decides": False, "chance": 0.5, "notes": {"bits": 1.5}}, ProbeEvent),
    "unprobed": (NOTE | {"probe": "a", "error": "no", "failed": True}, UnprobedNote),
    "unfit": (NOTE | {"key": "unfit", "reasons": {"a": "no layer"}}, UnfitNote),
    "no decoy": (NOTE | {"key": "decoy/none", "error": "no"}, NoneNote),
    "trial": (TRIAL, TrialEvent),
    "trial, confirmed": (
        TRIAL | {"points": [POINT | {"certify": 0.5, "certify:f1": 0.25, "asked": "What?"}], "value": 0.5}, TrialEvent
    ),
    "trial of flops that are whole": (TRIAL | {"points": [POINT | {"flops": 4}]}, TrialEvent),
}  # fmt: skip


@pytest.mark.parametrize("name", WRITTEN)
def test_what_is_read_is_written_again_byte_for_byte(name: str) -> None:
    row, kind = WRITTEN[name]
    (event,) = read(row)
    assert type(event) is kind
    assert json.dumps(event.as_row()) == json.dumps(row)


def test_an_event_says_its_type_and_leaves_out_what_was_not_said() -> None:
    note = UnfitNote(reasons={})
    assert list(note.as_row().items()) == [("type", "note"), ("key", "unfit"), ("time", 0.0), ("reasons", {})]
    assert "looks" not in capability().as_row()
    assert "asked" not in trial("t", point(1)).as_row()["points"][0]


def test_what_older_releases_did_not_record_has_the_value_that_judging_takes() -> None:
    bare = capability()
    assert (bare.looks, bare.scorer, bare.access, bare.attacks, bare.skipped) == (1, "choice", "weights", (), {})
    assert (bare.also, bare.wordings, bare.attack_access, bare.utility_groups) == ({}, (), {}, None)
    before, probe, unprobed, tried = read(BEFORE, PROBE, NOTE | {"probe": "a", "error": "no"}, TRIAL)
    assert before.unused == {}
    assert (before.unsteady, probe.decides, probe.chance, probe.notes) == (0.0, True, None, {})
    assert (unprobed.failed, tried.outputs_moved) == (False, 0.0)


def without(row: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key != name}


def text(row: Any) -> str:
    return json.dumps(row) + "\n"


DAMAGED = {
    "missing key": (text(without(TRIAL, "state")), "state: Field required"),
    "missing in a point": (text(TRIAL | {"points": [POINT, without(POINT, "select")]}), "points.1.select: Field"),
    "a repeat of nothing": (text(without(TRIAL, "configuration") | {"key": "target/confirm/00-0"}), "a trial that"),
    "not a number": (text(BEFORE | {"utility": float("nan")}), "utility: Input should be a finite number"),
    "no key": (text(without(BEFORE, "key")), "key: Field required"),
    "wrong type": (text(TRIAL | {"share_moved": "much"}), "share_moved: Input should be a valid number"),
    "number as text": (text(BEFORE | {"select": "0.5"}), "select: Input should be a valid number"),
    "wrong type in a point": (text(TRIAL | {"points": [POINT | {"steps": 1.5}]}), "points.0.steps: Input should be a"),
    "no list": (text(TRIAL | {"points": 7}), "points: Input should be a valid tuple"),
    "state that is none": (text(TRIAL | {"state": "done"}), "state: Input should be 'complete' or 'failed'"),
    "key that nobody knows": (text(TRIAL | {"luck": 1}), "luck: Extra inputs are not permitted"),
    "split that nobody knows": (text(BEFORE | {"selct": 0.5}), "selct: String should match pattern"),
    "note that says nothing": (text(NOTE), "error: Field required"),
    "unknown type": (text(BEFORE | {"type": "after"}), "type: 'after' is no event"),
    "type that is no text": (text(BEFORE | {"type": ["before"]}), "type: ['before'] is no event"),
    "no type": (text(without(BEFORE, "type")), "it has no type"),
    "not JSON": ('{"type": \n', "it is no JSON"),
    "not UTF-8": ("\udcff\n", "it is no JSON"),
    "empty line": ("\n", "it is no JSON"),
    "no object": ("[1, 2]\n", "it is no JSON object"),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGED)
@pytest.mark.parametrize(
    "use",
    [read_evidence, judge_run, lambda run: RunDirectory(run, PLAN)],
    ids=["read", "judged", "resumed"],
)
def test_a_damaged_line_is_one_line_with_its_number_and_field(
    name: str, use: Callable[[Path], object], tmp_path: Path
) -> None:
    line, said = DAMAGED[name]
    run = record(tmp_path / "run", NEVER_TRAINED)
    log = run / "events.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join([*lines[:3], line.encode(errors="surrogateescape"), *lines[3:]]))
    with pytest.raises(InputError) as caught:
        use(run)
    assert caught.value.found.startswith(f"{log}, line 4: {said}")
    assert str(caught.value).isprintable()


SAMPLE = {"key": "target/before", "name": "certify", "scores": [0, 0.5, 1]}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (text(without(SAMPLE, "scores")), "scores: Field required"),
        (text(SAMPLE | {"scores": [0.5, "1"]}), "scores.1: Input should be a valid number"),
        (text(SAMPLE | {"scores": [[0.5]]}), "scores.0: Input should be a valid number"),
        (text(SAMPLE | {"more": 1}), "more: Extra inputs are not permitted"),
        ("{\n", "it is no JSON ("),
        ("[]\n", "it is no JSON object"),
    ],
)
def test_so_is_a_line_of_scores(line: str, said: str, tmp_path: Path) -> None:
    run = record(tmp_path / "run", NEVER_TRAINED)
    log = run / "samples.jsonl"
    log.write_text(line + log.read_text())
    with pytest.raises(InputError) as caught:
        read_evidence(run)
    assert caught.value.found.startswith(f"{log}, line 1: {said}")
    assert str(caught.value).isprintable()


def test_a_torn_last_line_is_left_out(tmp_path: Path) -> None:
    whole, torn = (record(tmp_path / name, NEVER_TRAINED) for name in ("whole", "torn"))
    for name, line in (("events.jsonl", text(TRIAL)), ("samples.jsonl", text(SAMPLE))):
        with (torn / name).open("a") as log:
            log.write(line[:-20])
    assert read_evidence(torn).by_key.keys() == read_evidence(whole).by_key.keys()
    assert judge_run(torn) == judge_run(whole)


def resealed(run: Path, change: Callable[[list[bytes]], list[bytes]], file: str = "events.jsonl") -> Path:
    """A run that ended with these lines: nobody changed them afterwards."""
    events = (run / "events.jsonl").read_bytes().splitlines(keepends=True)[:-1]
    (run / "events.jsonl").write_bytes(b"".join(events))
    lines = (run / file).read_bytes().splitlines(keepends=True)
    with RunDirectory(run, PLAN) as opened:
        (run / file).write_bytes(b"".join(change(lines)))
        opened.finish()
    return run


def dropped(part: str) -> Callable[[list[bytes]], list[bytes]]:
    return lambda lines: [line for line in lines if part.encode() not in line]


@pytest.mark.parametrize(
    ("file", "part", "said"),
    [
        ("events.jsonl", '"type":"capability"', "the evidence does not say what it is about"),
        ("events.jsonl", '"type":"models"', "the evidence does not say which models were given"),
        ("events.jsonl", '"key":"target/before"', "the evidence says nothing of the target"),
        ("samples.jsonl", '"key":"target/before","name":"certify"', "lacks the scores 'certify' of 'target/before'"),
        ("samples.jsonl", '"name":"certify@8"', "lacks the scores 'certify@8' of 'target/confirm/00-0'"),
        ("samples.jsonl", '"name":"control"', "lacks the scores 'control' of 'original/probe/linear'"),
    ],
)
def test_evidence_that_lacks_a_line_is_refused_in_one(file: str, part: str, said: str, tmp_path: Path) -> None:
    run = resealed(record(tmp_path / "run", NEVER_TRAINED, whole=True), dropped(part), file)
    done = redteam("report", run, "--format", "md")
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2
    assert line.startswith("error: ")
    assert said in line


def test_a_sealed_line_that_is_no_event_ends_a_command_in_one_line(tmp_path: Path) -> None:
    run = resealed(record(tmp_path / "run", NEVER_TRAINED), lambda lines: [*lines, text(TRIAL | {"state": 1}).encode()])
    done = redteam("report", run, "--format", "md")
    (line,) = done.stderr.splitlines()
    assert (done.returncode, "events.jsonl, line" in line, "state: Input should be" in line) == (2, True, True)


def test_the_manifest_names_the_schema_where_older_releases_read_on(tmp_path: Path) -> None:
    run = record(tmp_path / "run", NEVER_TRAINED)
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["environment"][SCHEMA_OF] == str(SCHEMA)
    assert manifest.keys() - {"environment"} == type(PLAN).model_fields.keys()
    assert open_sealed(run).environment == manifest["environment"]


@pytest.mark.parametrize(
    ("schema", "said"), [(SCHEMA + 1, "a newer release than this one wrote"), ("x", "no readable manifest.json")]
)
def test_evidence_of_a_newer_schema_is_refused(schema: object, said: str, tmp_path: Path) -> None:
    manifest = {**PLAN.model_dump(), "environment": {SCHEMA_OF: str(schema)}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=re.escape(said)):
        read_plan(tmp_path)


@pytest.mark.parametrize("environment", [{}, {"environment": {"python": "3.11"}}])
def test_a_manifest_without_a_schema_is_of_the_first(environment: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({**PLAN.model_dump(), **environment}))
    assert read_plan(tmp_path) == PLAN


KEY = re.compile(r"/(before|probe|unprobed|search|again|confirm|none)\b|(certify|select|utility)[:@]")


@pytest.mark.parametrize("file", sorted(Path(package.__file__).parent.rglob("*.py")), ids=lambda file: file.name)
def test_keys_are_made_and_taken_apart_in_one_module(file: Path) -> None:
    """Neither an f-string nor a literal that is not a docstring holds a part of a key elsewhere."""
    if file == Path(keys.__file__):
        return
    tree = ast.parse(file.read_text(encoding="utf-8"))
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, documented) and node.body and isinstance(node.body[0], ast.Expr)
    }
    literals = [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings
    ]
    assert not [one for one in literals if KEY.search(one)]


@pytest.mark.parametrize(
    ("made", "key"),
    [
        (keys.before("target"), "target/before"),
        (keys.probe("decoy", "mine.py:A/B"), "decoy/probe/mine.py:A/B"),
        (keys.unprobed("canary", "mlp"), "canary/unprobed/mlp"),
        (keys.none("decoy"), "decoy/none"),
        (keys.search("target", 7), "target/search/0007"),
        (keys.repeat("reference", "again", 2, 0), "reference/again/02-0"),
        (keys.repeat("target", "longer", 2, 0), "target/longer/02-0"),
        (keys.repeat("reference", "confirm", 12, 1), "reference/confirm/12-1"),
        (keys.at(keys.certify(), 8), "certify@8"),
        (keys.at(keys.certify("exact"), 8), "certify:exact@8"),
    ],
)
def test_keys_are_those_of_every_release(made: str, key: str) -> None:
    assert made == key


def test_the_splits_of_scorers_are_taken_apart() -> None:
    assert keys.split_of(keys.certify("f1")) == "certify"
    assert keys.split_of(keys.certify("mine.py:Near")) == "certify"
    assert keys.split_of("select") == "select"
    assert keys.is_at("select@4", "select")
    assert not keys.is_at("select", "select")


def test_trials_come_in_the_order_of_their_numbers_and_of_their_stage() -> None:
    named = ["target/search/0010", "target/search/0002", "target/confirm/00-0", "reference/search/0001"]
    content = "".join(text(trial(key, configuration=0).as_row()) for key in named).encode()
    events = {event.key: event for event in read_events(content, LOG)}
    found = type(read_evidence(Path("nowhere")))(by_key=events, samples={})
    assert [one.key for one in found.search("target")] == ["target/search/0002", "target/search/0010"]
    assert [one.key for one in found.confirmed("target")] == ["target/confirm/00-0"]
    assert found.again("target") == []


def test_a_capability_that_is_read_is_the_one_that_was_written() -> None:
    whole = capability(also={"f1": 0.0}, groups=(0, 1, 1), looks=2, attacks=("a", "b"), utility_groups=(0,))
    (found,) = read(whole.as_row())
    assert isinstance(found, CapabilityEvent)
    assert found == whole
