"""A run opens and hashes each model once; where memory is short it lets go of some, and finds the same."""

from __future__ import annotations

import gc
import json
import os
import shutil
import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_classifiers import tiny_points, trained_mlp

import redteam
import redteam.checkpoints.digest as digests
import redteam.suite.models as models
import redteam.suite.run as run_module
from redteam.checkpoints.live import Live, live_model, tensors_digest
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
    monkeypatch.setattr(run_module, "has_room", lambda *_: False)
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


def test_so_is_one_whose_size_and_time_are_as_they_were(untrained: Path, tmp_path: Path) -> None:
    for file in untrained.parent.iterdir():
        shutil.copy(file, tmp_path)
    target = tmp_path / "model.pt"
    inputs, before = resolve_one(RunRequest(target=target, budget=1)), target.stat()
    content = bytearray(target.read_bytes())
    content[len(content) // 2] ^= 1
    target.write_bytes(content)
    os.utime(target, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (target.stat().st_size, target.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    with pytest.raises(InputError, match="was changed after the run began"):
        inputs.models["target"].open()


def test_whoever_attacks_gets_the_room_that_probes_took(
    untrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "has_room", lambda *_: False)
    inputs = resolve_one(RunRequest(target=untrained, attacks=QUICK, budget=1))
    with RunDirectory(tmp_path / "run", inputs.plan) as recorded:
        run = Run(inputs, recorded, Silent())
        run.setting("target")
        lent = weakref.ref(run.lend("original"))
        run.restore()
        assert lent() is not None
        run.setting("target")
        gc.collect()
        assert lent() is None


@pytest.mark.parametrize("role", ROLES)
def test_what_is_neither_a_path_nor_a_module_is_refused(untrained: Path, role: str) -> None:
    given: dict[str, Any] = {"target": untrained, role: open_target(untrained)}
    with pytest.raises(InputError, match=f"the {role} is given as Target"):
        redteam.attack(**given, budget=1)


class Knobbed(torch.nn.Module):
    """A classifier that also answers by a table of its own, which no snapshot of its arrays holds."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner, self.knobs = inner, {"sign": 1.0}

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.knobs["sign"] * self.inner(inputs)


def test_a_model_that_no_longer_answers_as_it_did_is_opened_anew(tmp_path: Path) -> None:
    points = tiny_points()
    target = live_model(Knobbed(trained_mlp(points, forget=True)), None, "target")
    inputs = resolve_one(RunRequest(target=target, capability=points, attacks=QUICK, budget=1))
    with RunDirectory(tmp_path / "run", inputs.plan) as recorded:
        run = Run(inputs, recorded, Silent())
        opened = run.setting("target")
        assert run.setting("target") is opened
        opened.target.module.knobs["sign"] = -1.0  # type: ignore[operator, union-attr, index]
        again = run.setting("target")
    assert again is not opened
    assert again.start["certify"].tolist() == opened.start["certify"].tolist()


def test_the_weights_of_the_original_in_another_form_are_refused_as_a_reference(
    untrained: Path, tmp_path: Path
) -> None:
    """Also where a probe of the original would be the first to see them: what a probe raises ends no run."""
    original, same = untrained.with_name("model.original.pt"), tmp_path / "same.pt"
    torch.save(torch.load(original, weights_only=True), same)
    assert digests.weights_digest(same) != digests.weights_digest(original)
    (tmp_path / "meddler.py").write_text(MEDDLER)
    how = {**HOW, "probes": f"{tmp_path / 'meddler.py'}:Meddler"}
    with pytest.raises(InputError, match="the reference has the weights of the original"):
        redteam.attack(untrained, reference=same, out=tmp_path / "run", **how)


def test_each_capability_gets_attacks_and_probes_of_its_own(untrained: Path) -> None:
    rules = untrained.with_name("capability.toml")
    other = untrained.with_name("else.toml")
    other.write_text(rules.read_text().replace('name = "facts"', 'name = "else"'))
    one, two = resolve(RunRequest(target=untrained, capability=(rules, other), attacks=QUICK, budget=1))
    assert one.attacks[QUICK] is not two.attacks[QUICK]
    assert all(one.probes[name] is not two.probes[name] for name in one.probes)


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
