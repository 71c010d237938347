"""Potion against an oracle written here, and what its search promises."""

from __future__ import annotations

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch
from tiny_models import same_bits, weights_of
from tiny_tasks import random_data, tiny_classifier, tiny_model_of, tiny_task
from torch import Tensor, nn

from redteam.engine.batches import Examples, LabelledSet, ordered_batches
from redteam.errors import InputError
from redteam.unlearning.contract import UnlearningTask
from redteam.unlearning.importance import importance
from redteam.unlearning.potion import ROUNDS, Potion, thresholds

KINDS = ("language", "classifier")


def predictable(kind: str) -> UnlearningTask:
    """A task whose forget labels are mostly what the model predicts, as those of poison are."""
    task = tiny_task(kind)
    if kind == "language":
        return task
    inputs = 3 * task.forget.inputs  # far enough out for several classes to be predicted
    labels = task.original(inputs).argmax(dim=1)
    labels[0] = (labels[0] + 1) % 4
    return dataclasses.replace(task, forget=LabelledSet(inputs, labels))


def oracle_outputs(module: nn.Module, data: Examples, row: int) -> tuple[Tensor, Tensor]:
    """Logits of one example [predictions, classes] and what they should say, padding never seen."""
    if isinstance(data, LabelledSet):
        return module(data.inputs[row : row + 1]), data.labels[row : row + 1]
    length = int(data.lengths[row])
    at = [t for t in range(1, length) if data.labels[row, t] >= 0]
    return module(input_ids=data.input_ids[row : row + 1, :length]).logits[0, [t - 1 for t in at]], data.labels[row, at]


def oracle_importance(module: nn.Module, data: Examples, size: int) -> dict[str, np.ndarray]:
    live = dict(module.named_parameters())
    total = {name: np.zeros(p.shape) for name, p in live.items()}
    starts = range(0, len(data), size)
    for start in starts:
        module.zero_grad()
        outputs = [oracle_outputs(module, data, row)[0] for row in range(start, min(start + size, len(data)))]
        torch.cat(outputs).pow(2).sum(dim=1).sqrt().mean().backward()
        for name, p in live.items():
            total[name] += p.grad.abs().double().numpy()
    module.zero_grad()
    return {name: value / len(starts) for name, value in total.items()}


def oracle_right(module: nn.Module, data: Examples) -> float:
    said = [oracle_outputs(module, data, row) for row in range(len(data))]
    return float(torch.cat([logits.argmax(dim=1) == labels for logits, labels in said]).float().mean())


def oracle_potion(module: nn.Module, task: UnlearningTask, size: int, rho: float) -> tuple[nn.Module, int]:
    """Returns the dampened module and how many rounds it took."""
    forget, full = (oracle_importance(module, data, size) for data in (task.forget, task.retain))
    released = {name: p.detach().clone() for name, p in module.named_parameters()}
    flat = [(forget[n] / full[n]).ravel() for n in forget]
    ratios = np.concatenate(flat)
    ratios = ratios[np.isfinite(ratios)]
    first = oracle_right(module, task.forget)
    q = len(task.forget) / (len(task.forget) + len(task.retain)) / 25
    rounds = 0
    while rounds < 500:
        rounds += 1
        alpha = np.percentile(ratios, 100 - math.log(1 + 100 * q))
        for name, p in module.named_parameters():
            factor = np.where(forget[name] > alpha * full[name], np.minimum(1, full[name] / forget[name]), 1)
            p.data = (released[name].double() * torch.from_numpy(factor)).float()
        if oracle_right(module, task.forget) <= rho * first:
            break
        q *= 1.1
    return module, rounds


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning", "ignore:divide by zero:RuntimeWarning")
@pytest.mark.parametrize(("kind", "rho"), [("classifier", 0.9), ("classifier", 0.8), ("language", 0.5)])
def test_potion_agrees_with_an_independent_oracle(kind: str, rho: float) -> None:
    task = predictable(kind)
    assert oracle_right(task.original, task.forget) > 0
    rounds: list[int] = []

    def heard(what: str, done: int, total: int) -> None:
        if "search" in what:
            rounds.append(done)

    made = Potion(share_left=rho, batch_size=7).apply(dataclasses.replace(task, progress=heard))
    wanted, count = oracle_potion(copy.deepcopy(task.original), task, 7, rho)
    assert 1 < count < ROUNDS  # the stop rule ended it, and not at once
    assert rounds == list(range(1, count + 1))
    assert not same_bits(weights_of(made), weights_of(task.original))
    for (name, p), target in zip(made.named_parameters(), wanted.parameters(), strict=True):
        assert float((p.detach() - target.detach()).norm() / target.detach().norm()) < 1e-4, name


@pytest.mark.parametrize("kind", KINDS)
def test_labels_are_not_read_by_the_importance(kind: str) -> None:
    module, data = tiny_model_of(kind), random_data(kind, 10, 4)
    changed = data.labels.clone()
    named = changed >= 0  # of a language model, where the loss is stays; what is right there changes
    changed[named] = changed[named].flip(0) if kind == "classifier" else (changed[named] + 5) % 28
    assert not torch.equal(changed, data.labels)
    other = dataclasses.replace(data, labels=changed)
    left, right = (importance(module, ordered_batches(part, 4), definition="norm") for part in (data, other))
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_closed_form_of_the_importance_on_a_linear_model() -> None:
    """f(x) = W x: d||W x|| / dW = W x x^T / ||W x||, and the norm is not squared."""
    module = nn.Linear(2, 2, bias=False)
    weight = torch.tensor([[1.0, 2.0], [0.0, -1.0]])
    with torch.no_grad():
        module.weight.copy_(weight)
    x = torch.tensor([[1.0, 1.0], [2.0, -1.0], [0.5, 3.0]])
    gradients = [torch.outer(weight @ row, row) / (weight @ row).norm() for row in x]
    wanted = (((gradients[0] + gradients[1]) / 2).abs() + gradients[2].abs()) / 2
    data = LabelledSet(x, torch.zeros(3, dtype=torch.int64))
    torch.testing.assert_close(importance(module, ordered_batches(data, 2), definition="norm")["weight"], wanted)


def test_thresholds_are_percentiles_of_the_finite_ratios_of_all_weights() -> None:
    forget = {"a": torch.tensor([1.0, 2.0, 0.0]), "b": torch.tensor([[3.0], [8.0], [5.0]])}
    full = {"a": torch.tensor([1.0, 4.0, 0.0]), "b": torch.tensor([[1.0], [2.0], [0.0]])}
    got = list(thresholds(forget, full, 25, 75))
    q = [0.01 * 1.1**n for n in range(500)]
    wanted = [np.percentile([1.0, 0.5, 3.0, 4.0], 100 - np.log(1 + 100 * share)) for share in q]
    assert len(got) == ROUNDS
    np.testing.assert_allclose(got, wanted, rtol=1e-12)
    assert got == sorted(got, reverse=True)


def test_the_stop_rule_is_the_first_threshold_that_reaches_it_from_the_original_weights() -> None:
    """The result is one dampening of the original, not the product of those before it."""
    task = predictable("classifier")
    first = oracle_right(task.original, task.forget)
    made = Potion(share_left=0.8).apply(task)
    assert oracle_right(made, task.forget) <= 0.8 * first
    forget, full = (
        importance(task.original, ordered_batches(data, 64), definition="norm") for data in (task.forget, task.retain)
    )
    for (name, p), q in zip(made.named_parameters(), task.original.parameters(), strict=True):
        changed = p != q
        torch.testing.assert_close(p[changed], (q * full[name] / forget[name])[changed], rtol=1e-5, atol=1e-9)


def test_a_search_that_never_stops_says_so_and_returns_the_last_model() -> None:
    """A constant classifier with all labels of its one answer: no dampening of weights changes what it says."""
    module = tiny_classifier()
    with torch.no_grad():
        module[-1].weight.mul_(1e-6)
        module[-1].bias.copy_(torch.tensor([5.0, -5.0, -5.0, -5.0]))
    task = tiny_task("classifier", module)
    task = dataclasses.replace(task, forget=LabelledSet(task.forget.inputs, torch.zeros(20, dtype=torch.int64)))
    said: list[str] = []
    made = Potion().apply(dataclasses.replace(task, progress=lambda what, done, total: said.append(what)))
    assert "still predicted" in said[-1]
    assert oracle_right(made, task.forget) == 1


def test_importances_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from redteam.unlearning import importance as room

    calls: list[str] = []
    whole = room.importance
    monkeypatch.setattr(room, "importance", lambda *args, **more: calls.append("") or whole(*args, **more))
    Potion(share_left=0.8).apply(predictable("classifier"))
    assert len(calls) == 2  # of the forget set, and of the retain set


@pytest.mark.parametrize("options", [{"share_left": 1.0}, {"share_left": -0.1}, {"full": "x"}, {"batch_size": 0}])
def test_options_that_mean_nothing_are_refused(options) -> None:
    with pytest.raises(InputError):
        Potion(**options)
