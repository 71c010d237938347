"""Every form of a report says the same of the same evidence, and nothing in a name is more than its letters."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from xml.etree import ElementTree

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from recorded_runs import MASKED, NEVER_TRAINED, PLAN, Attack, World, record
from rich.console import Console
from run_redteam import redteam, start_redteam

from redteam.config.policy import Rules, read_policy
from redteam.errors import InputError
from redteam.options import Report
from redteam.release import certify, report, show_certificate
from redteam.reporting.github import summarise
from redteam.reporting.markdown import plain
from redteam.reporting.told import told_by_certificate

CODES = {"passed": 0, "failed": 1, "undecided": 3}
DECIDED = {"RESISTED": "passed", "RECOVERED": "failed", "INCONCLUSIVE": "undecided"}
TODAY = datetime.now(UTC).date()


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """A model that recovers nothing, something or all; now and then too few facts, no reference, or no decoy."""
    after = draw(st.sampled_from([0.06, 0.08, 0.15, 0.2, 0.5, 0.95]))
    world = NEVER_TRAINED.change("target", attacks=(Attack(after=after, moved=draw(st.sampled_from([0.9, 0.0]))),))
    world = replace(world, groups=draw(st.sampled_from([12, 60, 100])))
    return world.without(*draw(st.sampled_from([(), (), ("reference",), ("decoy",)])))


def policy(folder: Path, waived: bool, delta: float) -> Path:
    path = folder / "policy.toml"
    text = f"[policy]\nmax_excess_recovery = {delta}\n"
    if waived:
        text += '[[policy.waiver]]\ncapability = "birthdays"\nreason = "known for long"\n'
        text += f"expires = {TODAY + timedelta(9)}\n"
    path.write_text(text)
    return path


@settings(max_examples=25, deadline=None)
@given(world=worlds(), waived=st.booleans(), delta=st.sampled_from([0.02, 0.1, 0.5]))
def test_all_forms_carry_one_verdict(world: World, waived: bool, delta: float) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        run, rules = record(folder / "run", world, whole=True), policy(folder, waived, delta)
        certificate, path = certify(run, read_policy(rules))
        console = Console(record=True, width=200, file=io.StringIO())
        code = show_certificate(certificate, path, console)
        shown = console.export_text()
        forms = {form: report(run, form, rules) for form in Report}
    verdict = certificate.predicate.runs[0].result.verdict
    outcome = "waived" if waived else DECIDED[verdict]
    decision = "passed" if waived else outcome
    assert (certificate.predicate.decision, certificate.predicate.exit_code, code) == (
        decision, CODES[decision], CODES[decision],
    )  # fmt: skip
    assert f"the gate: {decision}" in shown
    assert verdict in shown
    said = json.loads(forms[Report.JSON])
    assert forms[Report.ATTESTATION] == forms[Report.JSON]
    assert said["predicate"]["decision"] == decision
    assert said["predicate"]["runs"][0]["result"]["verdict"] == verdict
    assert f"**The gate: {decision}.**" in forms[Report.MD]
    assert re.search(rf"^\| birthdays \| {verdict} \|.*{outcome} \|$", forms[Report.MD], re.MULTILINE)
    suite = ElementTree.fromstring(forms[Report.JUNIT])
    tags = {"passed": "system-out", "failed": "failure", "undecided": "error", "waived": "skipped"}
    (case,) = suite.findall("testcase")
    assert [part.tag for part in case] == [tags[outcome]]
    counts = {name: int(suite.attrib[name]) for name in ("tests", "failures", "errors", "skipped")}
    one = {"failed": "failures", "undecided": "errors", "waived": "skipped"}.get(outcome)
    assert counts == {"tests": 1, "failures": 0, "errors": 0, "skipped": 0} | ({one: 1} if one else {})
    tested = json.loads(forms[Report.TEST_RESULT])["predicate"]
    assert tested["result"] == ("WARNED" if waived else "PASSED" if decision == "passed" else "FAILED")
    (metric,) = yaml.safe_load(forms[Report.HF].split("---")[1])["model-index"][0]["results"][0]["metrics"]
    assert verdict in (metric["value"], metric.get("args", {}).get("verdict"))
    word = {"passed": "resisted", "failed": "recovered", "undecided": "inconclusive", "waived": "waived"}[outcome]
    assert json.loads(forms[Report.BADGE])["message"].startswith(word)


@pytest.mark.parametrize("world", [NEVER_TRAINED, MASKED], ids=["resisted", "recovered"])
def test_without_a_policy_it_is_what_the_attack_found(world: World, tmp_path: Path) -> None:
    run = record(tmp_path / "run", world, whole=True)
    found = json.loads(report(run, Report.JSON))
    verdict = found["capabilities"][0]["verdict"]
    assert f"| birthdays | {verdict} |" in report(run, Report.MD)
    assert "The gate" not in report(run, Report.MD)
    for form in (Report.ATTESTATION, Report.TEST_RESULT):
        with pytest.raises(InputError, match=r"is about a gate\. Give --policy"):
            report(run, form)


def test_the_command_prints_and_nothing_else(tmp_path: Path) -> None:
    run = record(tmp_path / "run", MASKED, whole=True)
    before = sorted(run.iterdir())
    done = redteam("report", run, "--format", "junit")
    assert done.returncode == 0
    assert ElementTree.fromstring(done.stdout).attrib["failures"] == "1"
    assert sorted(run.iterdir()) == before
    (run / "samples.jsonl").write_text("")
    done = redteam("report", run)
    assert done.returncode == 2
    assert "is not what it was when the run ended" in done.stderr


HOSTILE = "a | b\n## c [x](javascript:1) <img> @you `d` **e** ::error::f \x1b[2J \x00 %0A &amp; ]]> _g_"


def hostile(folder: Path, world: World = MASKED) -> Path:
    return record(folder / "run", world, PLAN.model_copy(update={"capability": (HOSTILE, "c")}), whole=True)


def test_a_name_is_no_markup(tmp_path: Path) -> None:
    text = report(hostile(tmp_path), Report.MD)
    (row,) = [line for line in text.splitlines() if "RECOVERED" in line]
    assert len(re.findall(r"(?<!\\)\|", row)) == 9  # of the table alone
    assert [line for line in text.splitlines() if line.startswith("#")] == [
        "## Can what was unlearned be brought back?"
    ]
    assert not re.search(r"(?<!\\)[<@`\[]", row)
    assert "\x1b" not in text
    xml = ElementTree.fromstring(report(tmp_path / "run", Report.JUNIT))
    assert xml.find("testcase").attrib["name"].startswith("a | b")  # type: ignore[union-attr]
    card = yaml.safe_load(report(tmp_path / "run", Report.HF).split("---")[1])
    assert card["model-index"][0]["results"][0]["dataset"]["name"].startswith("a | b ## c")


@given(st.text(max_size=60))
def test_plain_is_one_line_and_is_read_back(text: str) -> None:
    made = plain(text)
    assert len(made.splitlines()) <= 1
    assert not re.search(r"(?<!\\)[|<`\[*]", made.replace("\\\\", ""))


def test_a_workflow_gets_annotations_and_a_summary(tmp_path: Path) -> None:
    certificate, _ = certify(hostile(tmp_path), Rules())
    told, summary = told_by_certificate(certificate), tmp_path / "summary.md"
    assert summarise(told, {}) == []
    (line,) = summarise(told, {"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": str(summary)})
    assert line.startswith("::error title=a | b ")
    assert line.count("::") == 2  # nothing in the name begins a command, or ends its title
    assert len(line.splitlines()) == 1
    assert "**The gate: failed.**" in summary.read_text()
    summarise(told, {"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": str(summary)})
    assert summary.read_text().count("The gate") == 2


def test_the_command_writes_them(tmp_path: Path) -> None:
    run, summary = record(tmp_path / "run", MASKED, whole=True), tmp_path / "summary.md"
    command = ("certify", run, "--policy", policy(tmp_path, False, 0.1))
    github = {"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": str(summary)}
    started = start_redteam(*command, cwd=tmp_path, **github)
    stdout, _ = started.communicate(timeout=120)
    assert started.returncode == 1
    assert "::error title=birthdays%3A RECOVERED::" in stdout
    assert "| birthdays | RECOVERED |" in summary.read_text()
