"""Models of the hub, out of a cache as its client lays it out; no test reaches a network."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from run_redteam import COMMAND, ENVIRONMENT

from redteam.checkpoints.hub import WANTED, located, model_name
from redteam.checkpoints.load import open_target
from redteam.config.request import read_project
from redteam.errors import InputError

REVISION = "0123456789abcdef0123456789abcdef01234567"
QUICK = Path(__file__).parents[1] / "quick_attack.py"


def cached(cache: Path, model: Path) -> Path:
    """Lays a directory into a cache as the hub's client does: files by content, links to them, names of revisions."""
    home = cache / "models--org--tiny"
    snapshot, blobs = home / "snapshots" / REVISION, home / "blobs"
    for folder in (snapshot, blobs, home / "refs"):
        folder.mkdir(parents=True)
    for number, file in enumerate(sorted(model.iterdir())):
        shutil.copy(file, blobs / f"{number:040x}")
        (snapshot / file.name).symlink_to(os.path.relpath(blobs / f"{number:040x}", snapshot))
    (home / "refs" / "main").write_text(REVISION)
    return snapshot


@pytest.fixture
def offline(tmp_path: Path, saved) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the command where the hub is a cache with one model in it."""
    cache = tmp_path / "cache"
    cached(cache, saved("model"))
    environment = {**ENVIRONMENT, "HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [*COMMAND, *map(str, arguments)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=tmp_path)

    return run


@pytest.mark.parametrize("address", ["hf://org/tiny", f"hf://org/tiny@{REVISION}", "hf://org/tiny@main"])
def test_a_cached_model_is_inspected(offline, address: str) -> None:
    done = offline("inspect", address, "--format", "json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["architecture"].startswith("llama")
    assert found["path"].endswith(REVISION)


@pytest.mark.parametrize("address", ["hf://org/other", "hf://org/tiny@v2"])
def test_what_the_cache_lacks_is_said_in_one_line(offline, address: str) -> None:
    done = offline("attack", address, "--budget", 1)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "cannot be had from the hub" in done.stderr
    assert "give a directory on this machine" in done.stderr


def test_a_cached_model_is_opened_as_its_directory(saved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = cached(tmp_path / "cache", saved("model"))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(snapshot))
    opened, plain = open_target(Path("hf://org/tiny")), open_target(saved("again"))
    assert opened.name == "org/tiny"
    held = plain.module.state_dict()
    assert all(tensor.equal(held[name]) for name, tensor in opened.module.state_dict().items())


def test_only_weights_configs_and_tokenizers_are_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def download(name: str, **how: Any) -> str:
        asked.update(how, name=name)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert located(Path("hf://org/na-me.2@refs/pr/1")) == tmp_path
    assert asked == {"name": "org/na-me.2", "revision": "refs/pr/1", "allow_patterns": list(WANTED)}
    assert not any(pattern.endswith((".py", "*", ".pkl", ".pt")) for pattern in WANTED)


@pytest.mark.parametrize(
    "address",
    [
        "hf://",
        "hf://org",
        "hf://org/name/more",
        "hf://org/na me",
        "hf://org/name@",
        "hf://../..",
        "hf://org/name@a b",
    ],
)
def test_a_malformed_address_is_refused(address: str) -> None:
    with pytest.raises(InputError, match="is no address of a model"):
        located(Path(address))


def test_other_paths_stay(tmp_path: Path) -> None:
    assert located(tmp_path / "hf") == tmp_path / "hf"
    assert located(Path("hf/org/name")) == Path("hf/org/name")


def test_names(tmp_path: Path) -> None:
    assert model_name(tmp_path / "models--org--tiny" / "snapshots" / REVISION) == "org/tiny"
    assert model_name(tmp_path / "model.pt") == "model.pt"


def test_an_address_in_a_project_is_no_path(tmp_path: Path) -> None:
    (tmp_path / "redteam.toml").write_text('target = "hf://org/tiny@main"')
    assert read_project(tmp_path / "redteam.toml").target == Path("hf://org/tiny@main")
