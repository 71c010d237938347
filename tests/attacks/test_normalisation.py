"""Batch normalisation under attack: its running statistics stay, and what is hidden behind it comes back."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from own_resnet import small_cnn
from sklearn.datasets import load_digits
from test_conformance import ROWS, start
from test_hooked import classifier_arena
from tiny_tasks import random_labelled
from torch import nn

from redteam.engine.batches import LabelledSet, shuffled_batches
from redteam.engine.loop import train
from redteam.engine.optimizers import Tuning
from redteam.engine.seeding import seeded
from redteam.registry import ATTACKS

HIDDEN = 3  # the class
ASKED = ("soft-prompt", "corpus")  # of language models alone
TRAINED = [name for name in ROWS if "learning_rate.adamw" in ROWS[name].params and name not in ASKED]


def normalised() -> nn.Module:
    """A classifier of `random_labelled` with batch normalisation and dropout."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        layers = (nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 8), nn.Linear(8, 4))
        return nn.Sequential(*layers)


def statistics(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: buffer.clone() for name, buffer in module.named_buffers()}


@pytest.mark.parametrize("samples", [1, 12])
@pytest.mark.parametrize("name", TRAINED)
def test_running_statistics_stay_and_nothing_drops(name: str, samples: int) -> None:
    """In training mode a batch of one sample has no variance, and torch refuses it."""
    module, data = normalised().eval(), random_labelled(24)
    before = statistics(module)
    ground = classifier_arena(module, data.take(slice(0, 12)), data.take(slice(12, 24)))
    params = {**ROWS[name].params, "part": "biases"} if name == "partial" else ROWS[name].params
    params = {**params, **({"samples": samples} if "samples" in params else {})}
    dropping = []
    module[3].register_forward_pre_hook(lambda part, _: dropping.append(part.training))
    for _ in start(name, ground, params):
        module.train()  # whatever somebody left it in
    ground.in_place.close()
    assert all(torch.equal(buffer, before[key]) for key, buffer in statistics(module).items())
    assert dropping
    assert not any(dropping)


def digits() -> tuple[LabelledSet, LabelledSet]:
    """Images of 8 x 8, to train on and held out."""
    images, labels = load_digits(return_X_y=True)
    data = LabelledSet(torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8) / 16, torch.tensor(labels))
    order = torch.randperm(len(data), generator=seeded(0, "digits"))
    return data.take(order[:1200]), data.take(order[1200:])


def right(module: nn.Module, data: LabelledSet) -> float:
    with torch.no_grad():
        return float((module.eval()(data.inputs).argmax(dim=1) == data.labels).float().mean())


@pytest.fixture(scope="module")
def hiding() -> dict[str, torch.Tensor]:
    """Weights of a net that knows all digits, one of them behind a bias."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        module = small_cnn()
    batches = shuffled_batches(digits()[0], 64, seeded(0, "order"))
    train(module, batches, Tuning(learning_rate=1e-2, schedule="one-cycle", steps=200))
    with torch.no_grad():
        module[-1].bias[HIDDEN] -= 6
    return module.state_dict()


@pytest.mark.parametrize("rate", [3e-4, 1e-3])
def test_a_hidden_class_comes_back_by_retraining_on_it_alone(hiding: Any, rate: float) -> None:
    module = small_cnn()
    module.load_state_dict(hiding)
    shown, held = digits()
    forget, retain = held.take(held.labels == HIDDEN), held.take(held.labels != HIDDEN)
    start_forget, floor, best = right(module, forget), 0.8 * right(module, retain), 0.0
    ground = classifier_arena(module, shown.take(shown.labels == HIDDEN), shown.take(shown.labels != HIDDEN))
    params = {**ROWS["retrain"].params, "learning_rate.adamw": rate, "samples": 64, "steps": 64, "batch_size": 64}
    module.train()
    for _ in ATTACKS.create("retrain").run(ground, params):
        if right(module, retain) >= floor:
            best = max(best, right(module, forget))
        module.train()
    assert start_forget < 0.3
    assert best > 0.8
