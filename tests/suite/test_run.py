"""A run opens and hashes each model once; where memory is short it lets go of some, and finds the same."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

import redteam
import redteam.checkpoints.digest as digests
import redteam.suite.models as models
import redteam.suite.run as run_module
from redteam.checkpoints.live import Live, tensors_digest
from redteam.checkpoints.load import open_target
from redteam.config.request import RunRequest
from redteam.errors import InputError
from redteam.evidence.directory import RunDirectory
from redteam.suite.inputs import resolve, resolve_one
from redteam.suite.progress import Silent
from redteam.suite.run import Run, run_path

QUICK = f"{Path(__file__).parent.with_name('quick_attack.py')}:Quick"
HOW: dict[str, Any] = {"budget": 2, "attacks": QUICK, "probes": ["means", "patching", "connectivity"]}
ROLES = ("target", "original", "reference")
MEDDLER = '''
import torch
from redteam.probes.contract import ProbeReading

class Meddler:
    """Overwrites what it is lent for reading."""

    name, version, goal, paper, kinds, needs, decides = "meddler", 1, "", "", "language", "original, reference", False

    def read(self, view):
        with torch.no_grad():
            for opened in (view.original(), view.reference(), view.module):
                for weights in opened.parameters():
                    weights.zero_()
        nothing = (0.0,) * len(view.capability.certify)
        return ProbeReading(layer="", correct=nothing, control=nothing)
'''


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Counter[str], Counter[str]]]:
    """Counts how often each checkpoint is opened, and how often each file is hashed."""
    opened, hashed = Counter[str](), Counter[str]()
    open_target, file_digest = models.open_target, digests._file_digest

    def opening(path: Path, **how: Any) -> Any:
        opened[path.name] += 1
        return open_target(path, **how)

    def hashing(path: Path) -> str:
        hashed[path.name] += 1
        return file_digest(path)

    monkeypatch.setattr(models, "open_target", opening)
    monkeypatch.setattr(digests, "_file_digest", hashing)
    yield opened, hashed


def evidence(run: Path) -> tuple[list[dict[str, Any]], bytes]:
    """What a run recorded, but for times."""
    rows = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    told = [{key: value for key, value in row.items() if key not in ("time", "seconds", "seal")} for row in rows]
    return told, (run / "samples.jsonl").read_bytes()


@pytest.fixture(scope="module")
def whole(untrained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The evidence of a run with all the memory that it wants."""
    out = tmp_path_factory.mktemp("whole") / "run"
    redteam.attack(untrained, out=out, **HOW)
    return out


def test_each_model_is_opened_and_hashed_once(
    untrained: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scored, probed, lent to probes of the others, attacked, and made a decoy of."""
    names = {"model.pt", "model.original.pt", "model.reference.pt"}
    with counted(monkeypatch) as (opened, hashed):
        redteam.attack(untrained, out=tmp_path / "run", **HOW)
    assert opened == dict.fromkeys(names, 1)
    assert {name: hashed[name] for name in names} == dict.fromkeys(names, 1)
    assert evidence(tmp_path / "run") == evidence(whole)


def test_several_capabilities_hash_each_model_once(untrained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rules = untrained.with_name("capability.toml")
    other = untrained.with_name("other.toml")
    other.write_text(rules.read_text().replace('name = "facts"', 'name = "others"'))
    with counted(monkeypatch) as (_, hashed):
        many = resolve(RunRequest(target=untrained, capability=(rules, other), budget=1))
    assert len(many) == 2
    assert {hashed[name] for name in ("model.pt", "model.original.pt", "model.reference.pt")} == {1}


def test_where_memory_is_short_models_are_let_go_and_the_evidence_is_the_same(
    untrained: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "memory_left", lambda _: 0.0)
    with counted(monkeypatch) as (opened, hashed):
        redteam.attack(untrained, out=tmp_path / "run", **HOW)
    assert opened["model.original.pt"] > 1
    assert hashed["model.original.pt"] == 1
    assert evidence(tmp_path / "run") == evidence(whole)


def test_a_file_that_changes_after_it_was_hashed_is_refused(untrained: Path, tmp_path: Path) -> None:
    for file in untrained.parent.iterdir():
        shutil.copy(file, tmp_path)
    target = tmp_path / "model.pt"
    inputs = resolve_one(RunRequest(target=target, budget=1))
    os.utime(target, ns=(1, 1))  # touched, and the same: it is hashed again, and taken
    assert inputs.models["target"].open().sha256 == inputs.plan.target
    shutil.copy(tmp_path / "model.original.pt", target)
    with pytest.raises(InputError, match="was changed after the run began"):
        inputs.models["target"].open()


def test_what_a_probe_does_to_what_it_is_lent_is_undone(untrained: Path, tmp_path: Path) -> None:
    meddler = tmp_path / "meddler.py"
    meddler.write_text(MEDDLER)
    inputs = resolve_one(RunRequest(target=untrained, attacks=QUICK, probes=f"{meddler}:Meddler", budget=1))
    with RunDirectory(tmp_path / "run", inputs.plan) as recorded:
        run = Run(inputs, recorded, Silent())
        before = {role: tensors_digest(run.lend(role)) for role in ROLES}
        for role in ("original", "reference"):
            with torch.no_grad():
                next(run.lend(role).parameters()).zero_()
        run.restore()
        assert {role: tensors_digest(run.lend(role)) for role in ROLES} == before
    alone, meddled = tmp_path / "alone", tmp_path / "meddled"
    redteam.attack(untrained, out=alone, budget=2, attacks=QUICK, probes="means")
    redteam.attack(untrained, out=meddled, budget=2, attacks=QUICK, probes=["means", f"{meddler}:Meddler"])
    kept = [row for row in evidence(meddled)[0] if not str(row.get("probe")).endswith(":Meddler")]
    assert kept == evidence(alone)[0]


def test_a_plan_is_frozen_when_a_run_is_resolved(untrained: Path, tmp_path: Path) -> None:
    inputs = resolve_one(RunRequest(target=untrained, budget=3, attacks=["retrain", "noop"]))
    assert inputs.without({"noop": "of no use"}).plan is inputs.plan
    assert run_path(inputs).name == f"model-{inputs.plan.fingerprint[:8]}"
    assert run_path(resolve_one(RunRequest(target=untrained, budget=3, out=tmp_path))) == tmp_path


def test_a_module_of_python_is_copied_once_a_run(
    untrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is in memory already is shared likewise: one copy for all that read or attack it."""
    copied, open_live = Counter[str](), Live.open

    def copying(live: Live) -> Any:
        copied[live.name] += 1
        return open_live(live)

    monkeypatch.setattr(Live, "open", copying)
    given = {role: open_target(untrained.with_name(f"model.{role}.pt")) for role in ("original", "reference")}
    target = open_target(untrained)
    redteam.attack(
        target.module,
        tokenizer=target.tokenizer,
        capability=untrained.with_name("capability.toml"),
        out=tmp_path / "run",
        **{role: opened.module for role, opened in given.items()},
        **HOW,
    )
    assert copied == dict.fromkeys(ROLES, 1)
