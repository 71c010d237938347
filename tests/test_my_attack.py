"""The example of an attack of one's own: its own tests pass, and it runs as its README says."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from run_redteam import ENVIRONMENT, ONE_PROBE, redteam

from redteam import registry
from redteam.registry import ATTACKS
from redteam.testing import PROMISES

EXAMPLE = Path(__file__).parent.parent / "examples" / "my_attack"
README = (EXAMPLE / "README.md").read_text(encoding="utf-8")


def test_its_own_tests_pass() -> None:
    """In a process of its own, from its own folder, as somebody would who copied it."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_my_attack.py"],
        cwd=EXAMPLE, env=ENVIRONMENT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert f"{len(PROMISES) + 3} passed" in done.stdout


def test_it_attacks_a_target(untrained: Path, tmp_path: Path) -> None:
    done = redteam(
        "attack", untrained, "-a", f"{EXAMPLE / 'my_attack.py'}:Vectors", *ONE_PROBE, "--budget", "2",
        "--format", "json", "--out", tmp_path / "run",
    )  # fmt: skip
    assert done.returncode == 3, done.stderr  # untrained models: nothing to recover
    result = json.loads(done.stdout)["capabilities"][0]
    assert (result["budget"]["spent"], result["budget"]["failed"]) == (2, 0)
    rows = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    trials = [row for row in rows if row["type"] == "trial" and row["key"].startswith("target/search/")]
    assert (trials[0]["params"]["learning_rate"], trials[0]["params"]["steps"]) == (1e-2, 32)  # its first recipe
    assert len(trials) == 2
    assert all(0 < row["share_moved"] < 0.1 for row in trials)


def test_the_entry_point_of_the_readme_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    text = re.search(r"```toml\n(.*?)```", README, re.DOTALL)
    assert text is not None
    ((group, points),) = tomllib.loads(text[1])["project"]["entry-points"].items()
    monkeypatch.syspath_prepend(EXAMPLE)
    found = [EntryPoint(name, place, group) for name, place in points.items()]
    monkeypatch.setattr(registry, "entry_points", lambda group: [point for point in found if point.group == group])
    assert ATTACKS.installed() == {"vectors": "my_attack:Vectors"}
    assert ATTACKS.create("vectors").name == "vectors"


def test_the_readme_names_every_promise() -> None:
    assert re.findall(r"^\| `([a-z-]+)` \|", README, re.MULTILINE) == list(PROMISES)
