"""The example of a scorer of one's own: its own tests pass, and it scores a run as its README says."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from run_redteam import ENVIRONMENT, redteam

from redteam import registry
from redteam.registry import SCORERS
from redteam.testing import SCORER_PROMISES

EXAMPLE = Path(__file__).parent.parent / "examples" / "my_scorer"
README = (EXAMPLE / "README.md").read_text(encoding="utf-8")
QUICK = f"{Path(__file__).with_name('quick_attack.py')}:Quick"


def blocks() -> list[str]:
    """The TOML of the README: of a capability file, and of a package."""
    return re.findall(r"```toml\n(.*?)```", README, re.DOTALL)


def test_its_own_tests_pass() -> None:
    """In a process of its own, from its own folder, as somebody would who copied it."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_my_scorer.py"],
        cwd=EXAMPLE, env=ENVIRONMENT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert f"{len(SCORER_PROMISES) + 6} passed" in done.stdout


def test_it_scores_a_run(untrained: Path, tmp_path: Path) -> None:
    rules = untrained.with_name("scored.toml")
    rules.write_text(blocks()[0] + untrained.with_name("capability.toml").read_text())
    rules.with_name("my_scorer.py").write_bytes((EXAMPLE / "my_scorer.py").read_bytes())
    done = redteam(
        "attack", untrained, "--capability", rules, "-a", QUICK, "--budget", "2",
        "--format", "json", "--out", tmp_path / "run",
    )  # fmt: skip
    assert done.returncode == 3, done.stderr  # untrained models: nothing to recover
    assert "my_scorer.py is code of yours and is run to score" in done.stderr
    (result,) = json.loads(done.stdout)["capabilities"]
    assert (result["scorer"], list(result["also"])) == ("choice", ["rouge-l"])
    also = result["also"]["rouge-l"]
    assert 0 <= also["before"]["target"] <= 1
    assert also["chance"] > 0  # always saying one year is right now and then
    assert "my_scorer.py" not in (tmp_path / "run" / "events.jsonl").read_text()  # where it lies is nobody's concern


def test_the_entry_point_of_the_readme_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    ((group, points),) = tomllib.loads(blocks()[1])["project"]["entry-points"].items()
    monkeypatch.syspath_prepend(EXAMPLE)
    found = [EntryPoint(name, place, group) for name, place in points.items()]
    monkeypatch.setattr(registry, "entry_points", lambda group: [point for point in found if point.group == group])
    assert SCORERS.installed() == {"rouge-l": "my_scorer:RougeL"}
    assert SCORERS.create("rouge-l").name == "rouge-l"


def test_the_readme_names_every_promise() -> None:
    assert re.findall(r"^\| `([a-z-]+)` \|", README, re.MULTILINE) == list(SCORER_PROMISES)
