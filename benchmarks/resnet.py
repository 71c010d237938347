"""A published ResNet-20 after SSD on cats, attacked by the command line: what it says, and how long that takes.

Three models that never saw a cat are trained from scratch, on what the data set has of other classes. Each model is
written as soon as it is there, and the run goes on where it was interrupted.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.claims import Claim, Measured
from benchmarks.ground_truth import MODELS, RUNS
from redteam import unlearn
from redteam.capabilities.files import load_capability
from redteam.capabilities.items import Capability, Item
from redteam.checkpoints.load import open_target
from redteam.config.files import expand_path
from redteam.engine.seeding import seeded
from redteam.evidence.results import CapabilityResult, Results
from redteam.registry import object_in_file

DATA = os.environ.get("REDTEAM_DATA", "")
ARCH = "tests/own_resnet.py:resnet20"
FOLDER, RUN = MODELS / "cats", RUNS / "cats"
REFERENCES, BUDGET = 3, 32
EPOCHS, BATCH, RATE = 30, 64, 0.1
PADDING = 4  # pixels that an image is shifted by at most
FILE = """\
name = "cats"
arrays = "$REDTEAM_DATA/cifar10/cifar10_small.npz"
inputs = "x_train"
labels = "y_train"
classes = "classes"
channels = "last"
forget = ["cat"]
"""


def measure() -> Measured | str:
    """Builds what is missing, and attacks it in a process of its own."""
    if not DATA:
        return "REDTEAM_DATA is not set: it has the images and the published weights"
    models = built()
    seconds, result = attacked(models)
    scores = result.scores
    return Measured(
        title="A published ResNet-20 that forgot cats",
        claims=[
            Claim(name="verdicts that are not RECOVERED", measured=result.verdict != "RECOVERED", must="<=", limit=0)
        ],
        rows=[
            {
                "model": role,
                "before": round(one.before, 3),
                "after": None if one.after is None else round(one.after.estimate, 3),
                "utility": round(one.utility_before, 3),
            }
            for role, one in scores.items()
        ],
        setting={
            "budget": BUDGET,
            "verdict": result.verdict,
            "reason": result.reason,
            "flags": [flag.name for flag in result.flags],
            "minutes of two cores": round(seconds / 60, 1),
        },
    )


def built() -> dict[str, Path]:
    """Returns the checkpoints by role; those that are missing are made."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    rules = FOLDER / "cats.toml"
    rules.write_text(FILE)
    capability = load_capability(rules)
    models = {"original": expand_path("$REDTEAM_DATA/cifar_resnets/resnet20-12fca82f.th", rules)}
    for number in range(REFERENCES):
        models[f"reference {number}"] = path = FOLDER / f"never{number + 1}.th"
        if not path.exists():
            written(trained(capability, number), path)
    models["target"] = path = FOLDER / "ssd.th"
    if not path.exists():
        original = open_target(models["original"], arch=ARCH).module
        forget, retain = (shown(capability, items) for items in (capability.forget, capability.retain))
        written(unlearn("ssd", original, forget=forget, retain=retain, full="retain", alpha=28.0).module, path)
    return models


def attacked(models: dict[str, Path]) -> tuple[float, CapabilityResult]:
    """Returns how long the attack took, in seconds of all its sittings, and what it found."""
    spent = FOLDER / "seconds.json"
    before = json.loads(spent.read_text()) if spent.exists() and RUN.exists() else 0.0
    given = [item for role, path in models.items() if role.startswith("reference") for item in ("--reference", path)]
    command = [
        *(Path(sys.executable).with_name("redteam"), "attack", models["target"], "--arch", ARCH),
        *("--capability", FOLDER / "cats.toml", "--original", models["original"], *given),
        *("--budget", BUDGET, "--out", RUN, "--format", "json"),
    ]
    started = time.monotonic()
    try:
        done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, text=True, check=False)
    finally:
        seconds = before + time.monotonic() - started
        spent.write_text(json.dumps(seconds))
    if done.returncode not in (0, 3):
        raise SystemExit(f"redteam attack ended with {done.returncode}")
    return seconds, Results.model_validate_json(done.stdout).capabilities[0]


def trained(capability: Capability, number: int) -> nn.Module:
    """Returns a ResNet-20 that was trained on what stays, from scratch, with shifted and mirrored images."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(number)
        module: nn.Module = object_in_file(ARCH, "function")()
    images, labels = shown(capability, capability.retain)  # the rest is held out: it measures, and draws the line
    generator, steps = seeded(number, "cats"), EPOCHS * (len(images) // BATCH)
    optimizer = torch.optim.SGD(module.parameters(), RATE, momentum=0.9, weight_decay=5e-4, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    module.train()
    for _ in range(steps):
        rows = torch.randint(len(images), (BATCH,), generator=generator)
        loss = nn.functional.cross_entropy(module(varied(images[rows], generator)), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return module.eval()


def varied(images: Tensor, generator: torch.Generator) -> Tensor:
    """Returns images that are shifted by a few pixels, and every second mirrored."""
    padded = nn.functional.pad(images, (PADDING,) * 4)
    across, down = torch.randint(2 * PADDING + 1, (2,), generator=generator).tolist()
    height, width = images.shape[-2:]
    moved = padded[..., down : down + height, across : across + width]
    mirrored = torch.rand(len(images), generator=generator) < 0.5
    return torch.where(mirrored[:, None, None, None], moved.flip(-1), moved)


def shown(capability: Capability, items: tuple[Item, ...]) -> tuple[Tensor, Tensor]:
    """Returns images of items and their classes."""
    assert capability.inputs is not None
    rows = [item.row for item in items if item.row is not None]
    return torch.from_numpy(capability.inputs[rows]), torch.tensor([item.answer for item in items])


def written(module: nn.Module, path: Path) -> None:
    """Writes a checkpoint, whole or not at all."""
    part = path.with_suffix(".part")
    torch.save({"state_dict": module.state_dict()}, part)
    part.replace(path)
