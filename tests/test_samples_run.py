"""Samples of the training data, through the whole suite: who knows them, who forgot too well, who never saw them."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import redteam as package
from redteam.cli import app
from redteam.errors import InputError
from redteam.evidence.results import CapabilityResult
from redteam.suite.memo import Memo

pytestmark = pytest.mark.slow
REMOVED, UNSEEN, STAYS, WIDTH, CLASSES = 300, 400, 500, 80, 4
ATTACKS = ("head", "perturb")  # in CI no attack that trains for long; see the benchmark for those
BUDGET = 8


class World:
    """Points with labels that are partly noise: a model that was trained on them knows many by heart."""

    def __init__(self, folder: Path) -> None:
        generator = np.random.default_rng(0)
        count = REMOVED + UNSEEN + STAYS
        self.labels = generator.integers(0, CLASSES, count)
        self.points = generator.normal(size=(count, WIDTH)).astype(np.float32)
        self.points[np.arange(count), self.labels] += 2.5
        noise = generator.random(count) < 0.5
        self.labels[noise] = generator.integers(0, CLASSES, noise.sum())
        self.removed, stays = np.arange(REMOVED), np.arange(REMOVED + UNSEEN, count)
        unseen = np.arange(REMOVED, REMOVED + UNSEEN)
        np.savez(folder / "a.npz", x=self.points, y=self.labels, removed=self.removed, unseen=unseen)
        self.file = folder / "withdrawn.toml"
        self.file.write_text(
            f'name = "withdrawn"\narrays = "a.npz"\nclasses = {CLASSES}\nsamples = "removed"\nunseen = "unseen"\n'
        )
        self.stays = stays
        self.original = self.fit(np.r_[self.removed, stays], 1)
        self.references = [self.fit(stays, 10 + number) for number in range(6)]

    def fit(self, rows: np.ndarray, seed: int, steps: int = 1500) -> nn.Module:
        torch.manual_seed(seed)
        module = nn.Sequential(nn.Linear(WIDTH, 96), nn.ReLU(), nn.Linear(96, CLASSES))
        optimizer = torch.optim.AdamW(module.parameters(), 3e-3)
        points, labels = torch.from_numpy(self.points[rows]), torch.from_numpy(self.labels[rows])
        for _ in range(steps):
            batch = torch.randint(len(rows), (64,))
            loss = nn.functional.cross_entropy(module(points[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return module.eval()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("samples"))


@pytest.fixture(scope="module")
def memo() -> Memo:
    """What references and decoys show under the same attacks is run once."""
    return Memo()


def attacked(world: World, memo: Memo, target: nn.Module, out: Path) -> CapabilityResult:
    found = package.attack(
        target,
        capability=world.file,
        original=world.original,
        reference=world.references,
        attacks=ATTACKS,
        budget=BUDGET,
        out=out,
        memo=memo,
    )
    return found.capabilities[0]


def test_a_model_that_never_saw_them_resists(world: World, memo: Memo, tmp_path: Path) -> None:
    found = attacked(world, memo, world.fit(world.stays, 99), tmp_path)
    assert (found.verdict, [flag.name for flag in found.flags]) == ("RESISTED", [])
    assert found.control_recovered
    assert found.scorer == "membership"


def test_what_was_forgotten_too_well_is_told(world: World, memo: Memo, tmp_path: Path) -> None:
    """Ascent goes on until some samples stand out below: of them it is less sure than any that never saw them."""
    found = attacked(world, memo, ascended(world), tmp_path)
    assert found.verdict == "RECOVERED"
    target, reference = found.scores["target"], found.scores["reference"]
    assert target.sides is not None
    assert reference.sides is not None
    assert sum(target.sides) == pytest.approx(target.before, abs=1e-6)
    assert target.sides[1] > 0.1 > 2 * reference.sides[1]


def ascended(world: World) -> nn.Module:
    """Learns what stays, and the opposite of what was removed."""
    torch.manual_seed(3)
    module = copy.deepcopy(world.original)
    optimizer = torch.optim.AdamW(module.parameters(), 3e-3)
    points, labels, stays = (
        torch.from_numpy(world.points),
        torch.from_numpy(world.labels),
        torch.from_numpy(world.stays),
    )
    for _ in range(100):
        kept, removed = stays[torch.randint(len(stays), (64,))], torch.randint(REMOVED, (64,))
        learnt = nn.functional.cross_entropy(module(points[kept]), labels[kept])
        loss = learnt - 0.3 * nn.functional.cross_entropy(module(points[removed]), labels[removed])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return module


def test_a_model_that_was_trained_on_the_unseen_samples_did_not_resist(
    world: World, memo: Memo, tmp_path: Path
) -> None:
    """The lines are drawn by them: of such a model nothing stands out."""
    found = attacked(world, memo, world.fit(np.arange(len(world.labels)), 7), tmp_path)
    assert found.scores["target"].before < 0.1
    assert found.verdict == "INCONCLUSIVE"
    assert "unseen-known" in [flag.name for flag in found.flags]


def test_a_reference_of_other_classes_is_refused_in_one_line(world: World, tmp_path: Path) -> None:
    other = nn.Sequential(nn.Linear(WIDTH, 8), nn.ReLU(), nn.Linear(8, CLASSES - 1))
    with pytest.raises(InputError, match=r"gives outputs of shape .* where the items name 4 classes"):
        package.attack(
            world.original, capability=world.file, original=world.fit(world.stays, 3, steps=1),
            reference=[*world.references[:5], other], attacks=ATTACKS, budget=1, out=tmp_path,
        )  # fmt: skip


def test_fewer_than_six_models_beside_them_are_refused(world: World, tmp_path: Path) -> None:
    for name, module in {"t": world.original, "r": world.references[0]}.items():
        torch.save(module.state_dict(), tmp_path / f"{name}.pt")
    (tmp_path / "train.py").write_text(
        "from torch import nn\ndef make():\n"
        f"    return nn.Sequential(nn.Linear({WIDTH}, 96), nn.ReLU(), nn.Linear(96, {CLASSES}))\n"
    )
    asked = ["attack", f"{tmp_path}/t.pt", "--arch", f"{tmp_path}/train.py:make", "--capability", str(world.file)]
    said = CliRunner().invoke(app, [*asked, "--reference", f"{tmp_path}/r.pt"])
    assert said.exit_code == 2
    assert "withdrawn: 1 model that never saw them, and 6 or more tell which samples stand out" in said.output
