"""What runs in other people's pipelines, run here: every step of the action and of the example, by a real shell."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml
from recorded_runs import MASKED, NEVER_TRAINED, PLAN, World, record
from run_redteam import redteam

from redteam.config.policy import read_policy
from redteam.options import Pipeline
from redteam.pipeline import write_pipeline

ROOT = Path(__file__).parents[1]
FEW = World(groups=12, models=NEVER_TRAINED.models)
POLICY = "[policy]\nmax_excess_recovery = 0.1\n"


def shell(script: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a script as GitHub runs one whose shell is bash."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script],
        cwd=folder,
        env={**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=600,
    )


def filled(text: str, known: dict[str, str]) -> str:
    """Puts in the values of expressions; one that is not known is an error."""
    return re.sub(r"\$\{\{\s*([\w.]+)\s*\}\}", lambda match: known[match.group(1)], text)


def run_action(folder: Path, known: dict[str, str], skipped: tuple[str, ...]) -> tuple[list[str], dict[str, str], int]:
    """Runs the steps of the action. Returns the names of those that ran, its outputs, and the exit code of the job."""
    action = yaml.safe_load((ROOT / "action.yml").read_text())
    known = {f"inputs.{name}": declared["default"] for name, declared in action["inputs"].items()} | known
    ran, code = [], 0
    for step in action["runs"]["steps"]:
        if step["name"] in skipped or (code and step.get("if") != "always()"):
            continue
        ran.append(step["name"])
        if "uses" in step:
            continue
        assert "${{" not in step["run"], "what a workflow is given is data, and no part of a script"
        output = folder / "output"
        output.write_text("")
        given = {name: filled(value, known) for name, value in step.get("env", {}).items()}
        done = shell(step["run"], folder, GITHUB_OUTPUT=str(output), **given)
        code = code or done.returncode
        for line in output.read_text().splitlines():
            name, _, value = line.partition("=")
            known[f"steps.{step['id']}.outputs.{name}"] = value
    outputs = {name: known.get(re.sub(r"[${} ]", "", value["value"]), "") for name, value in action["outputs"].items()}
    return ran, outputs, code


@pytest.mark.parametrize(
    ("world", "decision", "code"),
    [(NEVER_TRAINED, "passed", 0), (MASKED, "failed", 1), (FEW, "undecided", 3)],
    ids=["passed", "failed", "undecided"],
)
def test_the_action_keeps_the_evidence_and_ends_as_the_gate(
    tmp_path: Path, world: World, decision: str, code: int
) -> None:
    record(tmp_path / "run", world, whole=True)
    (tmp_path / "policy.toml").write_text(POLICY)
    ran, outputs, ended = run_action(tmp_path, {"inputs.run": "run"}, skipped=("Install", "Attack"))
    assert ran == ["Certify", "Keep the evidence", "Gate"]
    assert ended == code
    assert outputs == {"decision": decision, "certificate": "run/certificate.json"}
    assert json.loads((tmp_path / "run" / "certificate.json").read_text())["predicate"]["decision"] == decision
    assert ElementTree.parse(tmp_path / "run" / "junit.xml").getroot().attrib["tests"] == "1"


def test_a_policy_that_cannot_be_used_fails_the_job(tmp_path: Path) -> None:
    record(tmp_path / "run", NEVER_TRAINED, whole=True)
    ran, outputs, ended = run_action(tmp_path, {"inputs.run": "run"}, skipped=("Install", "Attack"))
    assert (ran, ended) == (["Certify", "Keep the evidence"], 2)
    assert outputs["decision"] == ""


def test_the_action_attacks(tmp_path: Path) -> None:
    """What is given is quoted: a target that is not there is one name, whatever is in it."""
    target = "no such; echo owned > owned"
    ran, _, ended = run_action(tmp_path, {"inputs.target": target, "inputs.run": "run"}, skipped=("Install",))
    assert (ran, ended) == (["Attack", "Keep the evidence"], 2)
    assert not (tmp_path / "owned").exists()


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which `redteam init` has said what to attack."""
    (tmp_path / "redteam.toml").write_text('target = "model.pt"\n')
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_workflow(folder: Path) -> tuple[list[str], int]:
    """Runs the steps of the workflow that `redteam init --ci github` wrote, but for installing and attacking."""
    (job,) = yaml.safe_load((folder / ".github/workflows/redteam.yml").read_text())["jobs"].values()
    ran, code, known = [], 0, {}
    for step in job["steps"]:
        if step.get("name") in (None, "Install", "Attack") or (code and step.get("if") != "always()"):
            continue
        ran.append(step["name"])
        if "uses" in step:
            assert step["with"]["path"] == "run"
            continue
        output = folder / "output"
        output.write_text("")
        given = {name: filled(value, known) for name, value in step.get("env", {}).items()}
        code = code or shell(step["run"], folder, GITHUB_OUTPUT=str(output), **given).returncode
        known |= {
            f"steps.{step['id']}.outputs.code": line.partition("=")[2] for line in output.read_text().splitlines()
        }
    return ran, code


@pytest.mark.parametrize(("world", "code"), [(NEVER_TRAINED, 0), (MASKED, 1), (FEW, 3)])
def test_the_workflow_that_is_written_keeps_the_evidence_and_ends_as_the_gate(
    repository: Path, world: World, code: int
) -> None:
    written = redteam("init", "--ci", "github", cwd=repository)
    assert (written.returncode, written.stdout.split()) == (0, [".github/workflows/redteam.yml", "policy.toml"])
    (repository / "policy.toml").write_text(POLICY)  # one that a recorded run of six trials can pass
    record(repository / "run", world, whole=True)
    assert run_workflow(repository) == (["Certify", "Keep the evidence", "Gate"], code)
    assert ElementTree.parse(repository / "run" / "junit.xml").getroot().attrib["tests"] == "1"


def test_a_policy_that_is_there_is_kept_and_one_that_is_wrong_fails_the_job(repository: Path) -> None:
    (repository / "policy.toml").write_text("[policy]\nmax_exces = 1\n")
    assert write_pipeline(Pipeline.GITHUB) == [Path(".github/workflows/redteam.yml")]
    record(repository / "run", NEVER_TRAINED, whole=True)
    assert run_workflow(repository) == (["Certify", "Keep the evidence"], 2)


def test_the_workflow_attacks_what_is_installed_by_its_name(repository: Path) -> None:
    write_pipeline(Pipeline.GITHUB)
    text = (repository / ".github/workflows/redteam.yml").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert f'pip install "{project["name"]}>={project["version"]}"' in text
    line = next(line.strip().removeprefix("run: ") for line in text.splitlines() if "redteam attack" in line)
    attack = shell(line, repository)  # there is no model.pt
    assert attack.returncode != 0
    assert "model.pt" in attack.stderr
    assert read_policy(repository / "policy.toml").min_budget == 100


@pytest.mark.parametrize(("present", "said"), [(None, "Run `redteam init` first"), ("workflow", "is there already")])
def test_nothing_is_written_over_and_nothing_for_nobody(repository: Path, present: str | None, said: str) -> None:
    if present is None:
        (repository / "redteam.toml").unlink()
    else:
        write_pipeline(Pipeline.GITHUB)
    before = sorted(repository.rglob("*"))
    done = redteam("init", "--ci", "github", cwd=repository)
    (line,) = done.stderr.splitlines()
    assert (done.returncode, said in line) == (2, True)
    assert sorted(repository.rglob("*")) == before


def gitlab(folder: Path, attack: str) -> int:
    """Runs the script of the example; `attack` stands for the attack."""
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "ci.md").read_text(), re.DOTALL)
    job: dict[str, Any] = yaml.safe_load(next(block for block in blocks if "image:" in block))["redteam"]
    assert job["artifacts"]["when"] == "always"
    lines = [line for line in job["script"] if not line.startswith("pip ")]
    assert lines[0].startswith("redteam attack")
    lines[0] = f"{attack} || [ $? -eq 3 ]"
    return shell("\n".join(lines), folder).returncode


@pytest.mark.parametrize(("world", "code"), [(NEVER_TRAINED, 0), (MASKED, 1), (FEW, 3)])
def test_so_does_the_example_for_gitlab(tmp_path: Path, world: World, code: int) -> None:
    record(tmp_path / "run", world, PLAN, whole=True)
    (tmp_path / "policy.toml").write_text(POLICY)
    assert gitlab(tmp_path, "(exit 3)") == code  # an attack without a verdict goes on to the gate
    assert (tmp_path / "run" / "junit.xml").exists()
    assert gitlab(tmp_path, "(exit 2)") != 0


def test_the_workflow_of_the_documents_gives_the_action_what_it_takes() -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "ci.md").read_text(), re.DOTALL)
    steps = yaml.safe_load(blocks[0])["jobs"]["redteam"]["steps"]
    given = next(step["with"] for step in steps if step["uses"].startswith("./"))
    assert given.keys() <= yaml.safe_load((ROOT / "action.yml").read_text())["inputs"].keys()
