"""A baseline: what one run found, in one file that says the same as the run, and nothing of anybody else's."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
from recorded_runs import MASKED, NEVER_TRAINED, PLAN, record, tell
from run_redteam import redteam

from redteam.errors import InputError
from redteam.evidence.baseline import evidence_at, write_baseline
from redteam.evidence.sealed import open_runs
from redteam.judging import compare as comparing
from redteam.judging.compare import compare


def runs(folder: Path) -> tuple[Path, Path]:
    """One that resists, and one of another model that does not."""
    other = PLAN.model_copy(update={"target": "u"})
    return record(folder / "old", NEVER_TRAINED, whole=True), record(folder / "new", MASKED, other, whole=True)


def test_it_says_what_the_run_says(tmp_path: Path) -> None:
    old, new = runs(tmp_path)
    write_baseline(old, tmp_path / "b.zip")
    assert compare(tmp_path / "b.zip", new) == compare(old, new)
    assert compare(new, tmp_path / "b.zip") == compare(new, old)


def test_the_same_evidence_makes_the_same_file_and_a_small_one(tmp_path: Path) -> None:
    old, _ = runs(tmp_path)
    for name in ("a.zip", "b.zip"):
        write_baseline(old, tmp_path / name)
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    assert (tmp_path / "a.zip").stat().st_size < 0.3 * sum(file.stat().st_size for file in old.iterdir())
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.zip", "b.zip", "new", "old"]  # and leaves no draft


def test_of_several_capabilities_it_holds_all(tmp_path: Path) -> None:
    for name in ("births", "deaths"):
        record(tmp_path / "both" / name, NEVER_TRAINED, PLAN.model_copy(update={"capability": (name, "c")}), whole=True)
    write_baseline(tell(tmp_path / "both"), tmp_path / "b.zip")
    with evidence_at(tmp_path / "b.zip") as run:
        assert [one.plan.capability[0] for one in open_runs(run)] == ["births", "deaths"]
    assert not run.exists()


def test_a_run_that_is_not_over_has_none(tmp_path: Path) -> None:
    old, _ = runs(tmp_path)
    log = old / "events.jsonl"
    log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:-1]))
    with pytest.raises(InputError, match="is not finished"):
        write_baseline(old, tmp_path / "b.zip")
    assert not (tmp_path / "b.zip").exists()


def test_one_whose_evidence_was_changed_is_refused(tmp_path: Path) -> None:
    """The seal is inside."""
    old, new = runs(tmp_path)
    write_baseline(old, tmp_path / "b.zip")
    with zipfile.ZipFile(tmp_path / "b.zip") as archive:
        held = {name: archive.read(name) for name in archive.namelist()}
    held["samples.jsonl"] = held["samples.jsonl"][:-20]
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        for name, content in held.items():
            archive.writestr(name, content)
    with pytest.raises(InputError, match="is not what it was when the run ended"):
        compare(tmp_path / "b.zip", new)


@pytest.mark.parametrize(
    "name",
    ["../manifest.json", "/tmp/manifest.json", "a/b/manifest.json", "..\\manifest.json", "model.py", "./manifest.json"],
)
def test_what_would_be_written_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr(name, "{}")
    with pytest.raises(InputError, match="is no baseline: it holds"), evidence_at(tmp_path / "b.zip"):
        pass


def test_what_would_fill_the_disk_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("redteam.evidence.baseline.LARGEST", 1000)
    with zipfile.ZipFile(tmp_path / "b.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("events.jsonl", "0" * 1001)
    with pytest.raises(InputError, match="unpacks to more than"), evidence_at(tmp_path / "b.zip"):
        pass


@pytest.mark.parametrize("content", [b"", b"PK", b"{}", b"PK\x05\x06" + bytes(18)])
def test_what_is_no_archive_is_refused_in_a_line(tmp_path: Path, content: bytes) -> None:
    _, new = runs(tmp_path)
    (tmp_path / "b.zip").write_bytes(content)
    done = redteam("compare", tmp_path / "b.zip", new)
    (line,) = done.stderr.splitlines()
    assert (done.returncode, line.startswith("error: ")) == (2, True)
    assert "is no baseline" in line


def test_the_command(tmp_path: Path) -> None:
    old, new = runs(tmp_path)
    written = redteam("baseline", "write", old, cwd=tmp_path)
    assert (written.returncode, written.stdout) == (0, "redteam-baseline.zip\n")
    assert redteam("compare", "redteam-baseline.zip", old, cwd=tmp_path).returncode == 0
    assert redteam("compare", "redteam-baseline.zip", new, cwd=tmp_path).returncode == 1
    nowhere = redteam("baseline", "write", old, "--out", tmp_path / "no" / "b.zip")
    assert nowhere.returncode == 2
    assert "cannot be written" in nowhere.stderr


WAIVED = '[policy]\n[[policy.waiver]]\ncapability = "{}"\nreason = "will be replaced in spring"\nexpires = {}\n'


@pytest.mark.parametrize(
    ("capability", "expires", "code", "said"),
    [
        ("birthdays", "2099-01-01", 0, "birthdays: waived until 2099-01-01: will be replaced in spring"),
        ("birthdays", "2020-01-01", 2, "expired on 2020-01-01"),
        ("birthday", "2099-01-01", 2, "Did you mean 'birthdays'?"),
    ],
)
def test_a_waiver_lets_what_is_worse_through(
    tmp_path: Path, capability: str, expires: str, code: int, said: str
) -> None:
    old, new = runs(tmp_path)
    (tmp_path / "policy.toml").write_text(WAIVED.format(capability, expires))
    done = redteam("compare", old, new, "--policy", tmp_path / "policy.toml")
    assert done.returncode == code
    assert said in " ".join((done.stdout + done.stderr).split())
    printed = redteam("compare", old, new, "--policy", tmp_path / "policy.toml", "--format", "json")
    assert printed.returncode == code
    if code == 0:
        row = json.loads(printed.stdout)["capabilities"][0]
        assert (row["change"], row["waiver"]["reason"]) == ("worse", "will be replaced in spring")


def test_nothing_is_let_through_without_a_policy() -> None:
    assert comparing.CODES == {"better": 0, "no worse": 0, "worse": 1, "undecided": 3}
