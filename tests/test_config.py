"""The files a user writes: what is accepted, and that everything else is refused in one line that names the place."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from redteam.config.capability import CapabilityFile, GroupRule, Shares, read_capability_file
from redteam.config.files import expand_path
from redteam.config.manifest import CheckpointRef, Manifest, TestbedRef, read_manifest
from redteam.errors import InputError
from redteam.record import Record

DIGEST = "0123456789abcdef" * 4
MANIFEST: dict[str, Any] = {
    "schema_version": 1,
    "method": "rmu",
    "seed": 3,
    "options": {"steps": 150, "alpha": 0.5, "kind": "x", "flag": True},
    "label_fraction": 0.25,
    "then": "retain",
    "costs": {"method": {"flops": 1.5e9, "seconds": 2.5, "peak_bytes": 4096}},
    "alignment_tax": {"estimate": 0.01, "low": -0.02, "high": 0.04},
    "target": {"path": "model.pt", "sha256": DIGEST},
    "original": {"path": "model.original.pt", "sha256": DIGEST},
    "reference": None,
    "capability": {"testbed": "facts", "seed": 3, "sha256": DIGEST},
}
CAPABILITY = """\
name = "birthdays"
prompt = "{question} {group}"
forget = ["forget.jsonl"]
retain = ["retain.jsonl"]
group = { field = "person" }
"""
# A number of more digits than int() takes, and nesting deeper than any parser goes.
LONG, DEEP = "1" * 5000, "[" * 100_000


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str | bytes, str], Path]:
    def written(content: str | bytes, name: str) -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return written


def refusal(read: Callable[[Path], Any], path: Path) -> InputError:
    with pytest.raises(InputError) as caught:
        read(path)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000
    assert str(path) in caught.value.found
    assert caught.value.remedy
    return caught.value


def manifest_refusal(write: Callable, content: Any) -> InputError:
    return refusal(read_manifest, write(json.dumps(content), "model.redteam.json"))


# Manifests.


def test_a_manifest_comes_back_as_it_was_written(write) -> None:
    manifest = read_manifest(write(json.dumps(MANIFEST), "model.redteam.json"))
    assert manifest.model_dump() == MANIFEST | {"further_references": []}
    assert read_manifest(write(manifest.model_dump_json(), "again.redteam.json")) == manifest
    assert isinstance(manifest.capability, TestbedRef)
    assert isinstance(manifest.original, CheckpointRef)


def test_a_manifest_needs_no_more_than_a_target_and_its_capability(write) -> None:
    least = {"method": "mine", "seed": 0, "target": MANIFEST["target"], "capability": "capability.toml"}
    manifest = read_manifest(write(json.dumps(least), "model.redteam.json"))
    assert (manifest.original, manifest.reference, manifest.options) == (None, None, {})
    assert (manifest.label_fraction, manifest.then, manifest.costs, manifest.alignment_tax) == (1.0, None, {}, None)
    assert manifest.capability == "capability.toml"
    for key in least:
        found = manifest_refusal(write, {k: v for k, v in least.items() if k != key}).found
        assert f": {key}: Field required" in found


@pytest.mark.parametrize("place", [(), ("target",), ("original",), ("capability",)])
def test_an_unknown_key_of_a_manifest_is_refused_and_named(write, place: tuple[str, ...]) -> None:
    content = json.loads(json.dumps(MANIFEST))
    inner = content
    for key in place:
        inner = inner[key]
    inner["orginal"] = 1
    error = manifest_refusal(write, content)
    assert "orginal" in error.found
    assert ".".join(place) in error.found
    assert error.remedy == ("Remove that key, or correct its name" if place else "Did you mean 'original'?")


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"schema_version": 2}, "schema_version"),
        ({"seed": "three"}, "seed"),
        ({"seed": 1.5}, "seed"),
        ({"method": None}, "method"),
        ({"target": "model.pt"}, "target"),
        ({"target": {"path": "model.pt", "sha256": DIGEST[:-1]}}, "target.sha256"),
        ({"target": {"path": "model.pt", "sha256": DIGEST.upper()}}, "target.sha256"),
        ({"target": {"path": "model.pt", "sha256": DIGEST + "\n"}}, "target.sha256"),
        ({"target": {"path": "model.pt"}}, "target.sha256"),
        ({"original": []}, "original"),
        ({"capability": 5}, "capability"),
        ({"options": {"steps": [1]}}, "options.steps"),
    ],
)
def test_a_wrong_value_is_named_by_its_place(write, change: dict[str, Any], place: str) -> None:
    assert f"redteam.json: {place}" in manifest_refusal(write, {**MANIFEST, **change}).found


def test_several_faults_are_counted(write) -> None:
    assert "(and 1 more)" in manifest_refusal(write, {**MANIFEST, "seed": "x", "extra": 1}).found


@pytest.mark.parametrize("content", [[], None, 3, "text", [MANIFEST]])
def test_json_that_is_no_object(write, content: Any) -> None:
    assert "the top level" in manifest_refusal(write, content).found


@pytest.mark.parametrize("content", ["", "{", "{'a': 1}", b"\xff\xfe{}", "\ufeff{}", "{} {}", "\x1b[31m"])
def test_a_file_that_is_no_json(write, content: str | bytes) -> None:
    assert "not readable JSON" in refusal(read_manifest, write(content, "model.redteam.json")).found


def test_a_manifest_that_is_not_there_or_a_directory(tmp_path: Path) -> None:
    refusal(read_manifest, tmp_path / "none.redteam.json")
    refusal(read_manifest, tmp_path)


@pytest.mark.parametrize(
    "content",
    ['{"seed": ' + LONG + "}", DEEP],
    ids=["long number", "deep nesting"],
)
def test_json_that_the_parser_gives_up_on(write, content: str) -> None:
    refusal(read_manifest, write(content, "model.redteam.json"))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(change=st.dictionaries(st.sampled_from([*MANIFEST, "other", "\u202e"]), json_values, max_size=4))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_json_is_a_manifest_or_refused_in_one_line(write, change: dict[str, Any]) -> None:
    path = write(json.dumps({**MANIFEST, **change}), "model.redteam.json")
    try:
        manifest = read_manifest(path)
    except InputError:
        refusal(read_manifest, path)
    else:
        assert read_manifest(write(manifest.model_dump_json(), "again.redteam.json")) == manifest


# Capability files. What their rows may hold is in capabilities/test_capability_files.py.


def test_a_capability_file_with_its_defaults(write) -> None:
    rules = read_capability_file(write(CAPABILITY, "capability.toml"))
    assert (rules.scorer, rules.choices, rules.answer, rules.seed) == (("choice",), None, "answer", 0)
    assert rules.splits == Shares(attack=0.4, select=0.2, certify=0.4)
    assert rules.group == GroupRule(field="person")


def test_the_example_is_a_capability_file() -> None:
    example = Path(__file__).parents[1] / "examples" / "birthdays" / "birthdays.toml"
    assert read_capability_file(example).name


@pytest.mark.parametrize(
    ("line", "named", "remedy"),
    [
        ("promt = 'x'", "promt", "Did you mean 'prompt'?"),
        ("[splits]\natack = 0.3", "splits.atack", "Did you mean 'attack'?"),
        ("[defaults]\nepochs = 1", "defaults", "Remove that key, or correct its name"),
    ],
)
def test_an_unknown_key_of_a_capability_file_is_refused_and_named(write, line: str, named: str, remedy: str) -> None:
    error = refusal(read_capability_file, write(f"{CAPABILITY}{line}\n", "capability.toml"))
    assert f"capability.toml: {named}: Extra inputs are not permitted" in error.found
    assert error.remedy == remedy


def test_a_misspelt_key_is_not_only_told_as_a_lacking_one(write) -> None:
    error = refusal(read_capability_file, write(CAPABILITY.replace("prompt", "promt"), "capability.toml"))
    assert "capability.toml: promt: Extra inputs are not permitted (and 1 more)" in error.found
    assert error.remedy == "Did you mean 'prompt'?"


def test_an_unknown_key_of_the_group_rule(write) -> None:
    text = CAPABILITY.replace('"person" }', '"person", regex = "(a)" }')
    assert "group.regex" in refusal(read_capability_file, write(text, "capability.toml")).found


@pytest.mark.parametrize(
    ("old", "new", "place"),
    [
        ('"birthdays"', '""', "name"),
        ('["forget.jsonl"]', "[]", "forget"),
        ('["forget.jsonl"]', '"forget.jsonl"', "forget"),
        ('["retain.jsonl"]', "[1]", "retain.0"),
        ('{ field = "person" }', '"person"', "group"),
        ('"person" }', '"person", pattern = "(" }', "group.pattern"),
        ('"person" }', '"person", pattern = "no group" }', "group.pattern"),
        ('"person" }', '"person" }\nscorer = ""', "scorer.0"),
        ('"person" }', '"person" }\nsplits = { attack = 0 }', "splits.attack"),
        ('"person" }', '"person" }\nsplits = { certify = -0.1 }', "splits.certify"),
        ('"person" }', '"person" }\nsplits = { select = nan }', "splits.select"),
        ('"person" }', '"person" }\nseed = 0.5', "seed"),
    ],
)
def test_a_wrong_value_of_a_capability_file_is_named_by_its_place(write, old: str, new: str, place: str) -> None:
    assert old in CAPABILITY
    error = refusal(read_capability_file, write(CAPABILITY.replace(old, new), "capability.toml"))
    assert f"capability.toml: {place}: " in error.found


def test_shares_are_finite(write) -> None:
    text = CAPABILITY + "splits = { attack = inf }\n"
    assert "splits.attack" in refusal(read_capability_file, write(text, "capability.toml")).found


@pytest.mark.parametrize(
    "content", ["=", "name = 'a'\nname = 'b'", b"name = '\xff'", "name = 'a", "\x00", "a = 1 b = 2"]
)
def test_a_file_that_is_no_toml(write, content: str | bytes) -> None:
    assert "not readable TOML" in refusal(read_capability_file, write(content, "capability.toml")).found


def test_a_capability_file_that_is_not_there_or_a_directory(tmp_path: Path) -> None:
    assert "there is no capability file" in refusal(read_capability_file, tmp_path / "none.toml").found
    assert "there is no capability file" in refusal(read_capability_file, tmp_path).found


@pytest.mark.parametrize(
    "content",
    [f"seed = {LONG}", f"name = {DEEP}"],
    ids=["long number", "deep nesting"],
)
def test_toml_that_the_parser_gives_up_on(write, content: str) -> None:
    refusal(read_capability_file, write(content, "capability.toml"))


# Paths in files.


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("rows.jsonl", "/folder/rows.jsonl"),
        ("deep/rows.jsonl", "/folder/deep/rows.jsonl"),
        ("/elsewhere/rows.jsonl", "/elsewhere/rows.jsonl"),
        ("$REDTEAM_TEST_A/rows.jsonl", "/data/rows.jsonl"),
        ("${REDTEAM_TEST_A}x/rows.jsonl", "/datax/rows.jsonl"),
        ("$REDTEAM_TEST_B/rows.jsonl", "/folder/part/rows.jsonl"),
        ("$REDTEAM_TEST_A/${REDTEAM_TEST_B}/$REDTEAM_TEST_B.jsonl", "/data/part/part.jsonl"),
        ("5$.jsonl", "/folder/5$.jsonl"),
    ],
)
def test_paths_are_relative_to_the_file_and_know_the_environment(
    text: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDTEAM_TEST_A", "/data")
    monkeypatch.setenv("REDTEAM_TEST_B", "part")
    assert expand_path(text, Path("/folder/capability.toml")) == Path(expected)


def test_a_variable_is_expanded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDTEAM_TEST_A", "$REDTEAM_TEST_A")
    assert expand_path("/$REDTEAM_TEST_A", Path("x.toml")) == Path("/$REDTEAM_TEST_A")


def test_a_variable_that_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REDTEAM_TEST_A", raising=False)
    with pytest.raises(InputError, match=r"\$REDTEAM_TEST_A, which is not set\. Set it: export REDTEAM_TEST_A="):
        expand_path("${REDTEAM_TEST_A}/rows.jsonl", Path("capability.toml"))


# All of them.


@pytest.mark.parametrize("model", [CheckpointRef, TestbedRef, Manifest, GroupRule, Shares, CapabilityFile])
def test_every_record_is_frozen_and_refuses_what_it_does_not_know(model: type[Record]) -> None:
    assert issubclass(model, Record)
    assert model.model_config["extra"] == "forbid"
    assert model.model_config["frozen"] is True


def test_a_record_cannot_be_changed() -> None:
    shares = Shares()
    with pytest.raises(ValidationError):
        shares.attack = 1.0
