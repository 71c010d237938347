"""A command reads the evidence of each run once."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from recorded_runs import MASKED, NEVER_TRAINED, PLAN, record, tell
from rich.console import Console
from tiny_classifiers import tiny_mlp, tiny_points, trained_mlp

import redteam
from redteam.config.policy import Rules
from redteam.evidence import sealed
from redteam.evidence.baseline import write_baseline
from redteam.judging.compare import compare
from redteam.options import Report
from redteam.pytest_plugin import Attacked
from redteam.release import certify, report, verify

LOGS = ("events.jsonl", "samples.jsonl")
QUICK = f"{Path(__file__).parents[1] / 'quick_attack.py'}:Quick"
watched: list[Counter[str]] = []  # an audit hook cannot be taken away again: it counts for whoever watches


def _count(event: str, arguments: tuple[Any, ...]) -> None:
    if watched and event == "open" and isinstance(arguments[0], str) and arguments[0].endswith(LOGS):
        watched[-1][arguments[0]] += 1


@pytest.fixture(scope="module", autouse=True)
def _hook() -> None:
    sys.addaudithook(_count)


@pytest.fixture
def opens() -> Iterator[Counter[str]]:
    """How often each log was opened."""
    watched.append(Counter())
    yield watched[-1]
    watched.pop()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("opens")
    record(path / "run", NEVER_TRAINED, whole=True)
    record(path / "other", MASKED, PLAN.model_copy(update={"target": "u"}), whole=True)
    for name in ("births", "deaths"):
        record(path / "several" / name, NEVER_TRAINED, PLAN.model_copy(update={"capability": (name, "c")}), whole=True)
    tell(path / "several")
    (path / "policy.toml").write_text("[policy]\nmax_excess_recovery = 0.2\n")
    certify(path / "run", Rules(max_excess_recovery=0.2))
    return path


def _in_a_test(folder: Path) -> None:
    attacked = Attacked(run=folder / "run")
    attacked.assert_resists(0.2)
    attacked.assert_resists(0.1)
    assert attacked.results.capabilities


COMMANDS: dict[str, tuple[Callable[[Path], object], int]] = {
    "certify": (lambda folder: certify(folder / "run", Rules(), folder / "c.json"), 1),
    "certify, several": (lambda folder: certify(folder / "several", Rules(), folder / "c.json"), 1),
    "verify": (lambda folder: verify(folder / "run" / "certificate.json", Console(quiet=True)), 1),
    "compare": (lambda folder: compare(folder / "run", folder / "other"), 1),
    "report": (lambda folder: report(folder / "run", Report.MD), 1),
    "report, several": (lambda folder: report(folder / "several", Report.JSON), 1),
    "report by a policy": (lambda folder: report(folder / "run", Report.JUNIT, folder / "policy.toml"), 1),
    "the fixture for tests": (_in_a_test, 1),
    "baseline": (lambda folder: write_baseline(folder / "run", folder / "b.zip"), 2),  # to check, and to copy
}


@pytest.mark.parametrize("name", COMMANDS)
def test_each_log_is_opened_so_often(name: str, folder: Path, opens: Counter[str]) -> None:
    command, times = COMMANDS[name]
    command(folder)
    assert len(opens) >= len(LOGS)
    assert set(opens.values()) == {times}


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Runs whose evidence was parsed."""
    found: list[Path] = []
    parse = sealed.evidence_in

    def counted(events: bytes, samples: bytes, run: Path) -> Any:
        found.append(run)
        return parse(events, samples, run)

    monkeypatch.setattr(sealed, "evidence_in", counted)
    return found


def _models() -> dict[str, Any]:
    points = tiny_points()
    return {
        "target": tiny_mlp(3),
        "original": trained_mlp(points, forget=True),
        "reference": trained_mlp(points, forget=False, seed=1),
        "capability": points,
    }


def test_an_attack_parses_what_it_recorded_once(tmp_path: Path, parsed: list[Path]) -> None:
    redteam.attack(**_models(), attacks=[QUICK], probes=["means"], budget=1, out=tmp_path / "run")
    assert parsed == [tmp_path / "run"]


def test_so_it_does_where_a_policy_judges_it(
    tmp_path: Path, parsed: list[Path], monkeypatch: pytest.MonkeyPatch, untrained: Path
) -> None:
    from typer.testing import CliRunner

    from redteam.cli import app

    monkeypatch.chdir(tmp_path)
    (tmp_path / "policy.toml").write_text("[policy]\n")
    options = ["--budget", "1", "-a", QUICK, "--policy", "policy.toml", "--out", "run"]
    done = CliRunner().invoke(app, ["attack", str(untrained), *options])
    assert done.exit_code in (1, 3), done.output
    assert (tmp_path / "run" / "certificate.json").is_file()
    assert parsed == [Path("run")]


def test_an_extended_run_is_parsed_once_and_so_is_the_one_that_extends_it(tmp_path: Path, parsed: list[Path]) -> None:
    how: dict[str, Any] = {**_models(), "attacks": [QUICK], "probes": ["means"], "budget": 1}
    redteam.attack(**how, out=tmp_path / "run")
    parsed.clear()
    redteam.attack(**how, out=tmp_path / "more", extend=tmp_path / "run")
    assert parsed == [tmp_path / "run", tmp_path / "more"]
