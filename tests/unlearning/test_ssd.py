"""Importances and dampening against an oracle written here, against closed forms, and what SSD promises of itself."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Sequence

import pytest
import torch
from tiny_models import same_bits, tiny_llama, weights_of
from tiny_tasks import random_data, random_labelled, tiny_classifier, tiny_model_of, tiny_task
from torch import Tensor, nn

import redteam
from redteam.engine.batches import Examples, LabelledBatch, LabelledSet, TokenSet, ordered_batches
from redteam.errors import InputError
from redteam.unlearning.contract import UnlearningTask
from redteam.unlearning.importance import (
    dampened,
    damping_factors,
    importance,
)
from redteam.unlearning.ssd import GRID, SSD

KINDS = ("language", "classifier")


# The oracle: no line of it is the package's. It is given tensors and cuts its own batches.


def oracle_losses(module: nn.Module, data: Examples, size: int) -> list[Callable[[], Tensor]]:
    """Mean cross-entropy of each run of `size` examples, by hand: padded to the full width, a position at a time."""
    losses = []
    for start in range(0, len(data), size):
        rows = range(start, min(start + size, len(data)))
        losses.append(lambda rows=rows: torch.stack(oracle_terms(module, data, rows)).mean())
    return losses


def oracle_terms(module: nn.Module, data: Examples, rows: Sequence[int]) -> list[Tensor]:
    if isinstance(data, LabelledSet):
        said = torch.log_softmax(module(data.inputs[list(rows)]), dim=1)
        return [-said[place, data.labels[row]] for place, row in enumerate(rows)]
    terms = []
    for row in rows:
        ids = data.input_ids[row, : data.lengths[row]]
        said = torch.log_softmax(module(input_ids=ids[None]).logits[0], dim=1)
        terms += [-said[at - 1, ids[at]] for at in range(1, len(ids)) if data.labels[row, at] >= 0]
    return terms


def oracle_fisher(module: nn.Module, losses: Sequence[Callable[[], Tensor]]) -> dict[str, Tensor]:
    """Mean over losses of the squared gradient, through `backward`."""
    live = dict(module.named_parameters())
    total = {name: torch.zeros_like(p, dtype=torch.float64) for name, p in live.items()}
    for loss in losses:
        module.zero_grad()
        loss().backward()
        for name, p in live.items():
            if p.grad is not None:
                total[name] += p.grad.double() ** 2
    module.zero_grad()
    return {name: value / len(losses) for name, value in total.items()}


def oracle_ssd(module: nn.Module, task, size: int, alpha: float, dampening: float, full: str) -> dict[str, Tensor]:
    on_forget = oracle_losses(module, task.forget, size)
    on_retain = oracle_losses(module, task.retain, size)
    forget = oracle_fisher(module, on_forget)
    every = oracle_fisher(module, on_retain + on_forget if full == "all" else on_retain)
    made = {}
    for name, p in module.named_parameters():
        made[name] = p.detach().clone()
        for at in torch.nonzero(forget[name] > alpha * every[name]).tolist():
            place = tuple(at)
            made[name][place] *= min(1.0, float(dampening * every[name][place] / forget[name][place]))
    return made


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("full", "alpha", "dampening"), [("all", 1.3, 1.0), ("all", 1.1, 0.5), ("retain", 3.0, 1.0)])
def test_ssd_agrees_with_an_independent_oracle(kind: str, full: str, alpha: float, dampening: float) -> None:
    """The language data has padding, and both sets end in a short batch."""
    task = tiny_task(kind)
    made = SSD(alpha=alpha, dampening=dampening, batch_size=7, full=full).apply(task)
    wanted = oracle_ssd(tiny_model_of(kind), task, 7, alpha, dampening, full)
    then = dict(task.original.named_parameters())
    changed = [name for name in wanted if not torch.equal(wanted[name], then[name])]
    assert len(changed) > len(wanted) / 2
    for name, p in made.named_parameters():
        error = (p.detach() - wanted[name]).norm() / wanted[name].norm()
        assert float(error) < 1e-4, (name, float(error))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("definition", ["batch", "sample"])
def test_importance_agrees_with_an_independent_oracle(kind: str, definition: str) -> None:
    module, data = tiny_model_of(kind), random_data(kind, 11, 3)
    got = importance(module, ordered_batches(data, 4), definition=definition)
    wanted = oracle_fisher(module, oracle_losses(module, data, 1 if definition == "sample" else 4))
    assert got.keys() == wanted.keys()
    for name, value in got.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value.double(), wanted[name], rtol=1e-4, atol=1e-9 * float(wanted[name].max()))


def test_closed_form_on_a_linear_model() -> None:
    """logits = (w x, 0): the gradient of a sample's loss with label 0 is -x / (1 + e^(w x))."""

    class Line(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.tensor([2.0, -1.0]))

        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([x @ self.w, torch.zeros(len(x))], dim=1)

    def slope(x: Sequence[float]) -> Tensor:
        score = 2.0 * x[0] - 1.0 * x[1]
        return -torch.tensor(x) / (1 + torch.tensor(score).exp())

    a, b, c = [3.0, 1.0], [0.5, 2.0], [-1.0, 1.0]
    module = Line()
    forget = LabelledBatch(torch.tensor([a, c]), torch.zeros(2, dtype=torch.int64))
    retain = LabelledBatch(torch.tensor([b]), torch.zeros(1, dtype=torch.int64))
    by_batch = importance(module, [forget], definition="batch")["w"]
    by_sample = importance(module, [forget], definition="sample")["w"]
    on_retain = importance(module, [retain])["w"]
    torch.testing.assert_close(by_batch, ((slope(a) + slope(c)) / 2) ** 2)
    torch.testing.assert_close(by_sample, (slope(a) ** 2 + slope(c) ** 2) / 2)
    torch.testing.assert_close(on_retain, slope(b) ** 2)
    ratio = on_retain / by_sample
    assert ratio[0] < 0.5 < ratio[1]  # at alpha 2 the first weight is dampened, the second is not
    made = dampened(module, damping_factors({"w": by_sample}, {"w": on_retain}, alpha=2, dampening=1))
    torch.testing.assert_close(dict(made.named_parameters())["w"].detach(), torch.tensor([2 * float(ratio[0]), -1.0]))


# Weights.


def test_an_unused_parameter_is_left_alone() -> None:
    class Spare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.spare = tiny_classifier(), nn.Parameter(torch.tensor([1.5, -2.5]))

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)

    module = Spare()
    made = SSD(alpha=1e-3, full="retain", dampening=0.1).apply(tiny_task("classifier", module))
    assert torch.equal(made.spare, module.spare)
    assert not torch.equal(made.used[0].weight, module.used[0].weight)


@pytest.mark.parametrize("kind", KINDS)
def test_an_alpha_that_selects_nothing_is_refused_and_not_passed_off_as_unlearning(kind: str) -> None:
    """Of all data: no weight can matter only to the forget set. 44 examples over 20 bound the ratio by 2.2."""
    task = tiny_task(kind)
    with pytest.raises(InputError, match="no weight matters 3 times as much"):
        SSD(alpha=3.0, importance="sample").apply(task)
    assert not same_bits(weights_of(SSD(alpha=1.2, importance="sample").apply(task)), weights_of(task.original))


# The module that is read.


class Normed(nn.Module):
    """With a batch norm and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Dropout(0.3), nn.Linear(12, 4))
        with torch.no_grad():
            self.layers[1].running_mean.add_(torch.linspace(-1, 1, 12))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


@pytest.fixture
def normed() -> Normed:
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        return Normed().eval()


@pytest.mark.parametrize("evaluation", [True, False])
def test_buffers_modes_and_the_global_generator_are_left_alone(normed: Normed, evaluation: bool) -> None:
    task = tiny_task("classifier", normed)
    normed.layers[3].train()  # a part may be in a mode of its own
    before, state = weights_of(normed), torch.random.get_rng_state()
    method = SSD(alpha=1.2, evaluation=evaluation)
    made, again = method.apply(task), method.apply(task)
    assert same_bits(weights_of(normed), before)
    assert normed.layers[3].training
    assert not normed.training
    assert torch.equal(torch.random.get_rng_state(), state)
    assert same_bits(weights_of(made), weights_of(again))
    assert not any(part.training for part in made.modules())
    assert all(torch.equal(made.get_buffer(name), buffer) for name, buffer in normed.named_buffers())


def test_the_mode_is_an_argument(normed: Normed) -> None:
    batches = list(ordered_batches(random_labelled(16), 8))
    still = importance(normed, batches)["layers.0.weight"]
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        moving = importance(normed, batches, training=True)["layers.0.weight"]
    assert not torch.allclose(still, moving, rtol=0.01)
    assert torch.equal(importance(normed, batches)["layers.0.weight"], still)


def test_tied_weights_are_dampened_once() -> None:
    tied = tiny_llama(tie_word_embeddings=True)
    made = SSD(alpha=1.2).apply(tiny_task("language", tied))
    assert made.lm_head.weight is made.model.embed_tokens.weight
    wanted = oracle_ssd(copy.deepcopy(tied), tiny_task("language", tied), 64, 1.2, 1.0, "all")
    assert "lm_head.weight" not in wanted
    torch.testing.assert_close(made.lm_head.weight.detach(), wanted["model.embed_tokens.weight"], rtol=1e-4, atol=1e-7)


def test_frozen_weights_stay_and_stay_frozen() -> None:
    module = tiny_classifier()
    module[0].requires_grad_(False)
    made = SSD(alpha=1.0).apply(tiny_task("classifier", module))
    assert torch.equal(made[0].weight, module[0].weight)
    assert not made[0].weight.requires_grad
    assert not torch.equal(made[2].weight, module[2].weight)
    with pytest.raises(InputError, match="no weight of the model may move"):
        SSD().apply(tiny_task("classifier", module.requires_grad_(False)))


def test_gradients_of_the_caller_are_not_touched() -> None:
    module = tiny_classifier()
    module(torch.ones(1, 6)).sum().backward()
    before = [p.grad.clone() for p in module.parameters()]
    made = SSD(alpha=1.0).apply(tiny_task("classifier", module))
    assert all(torch.equal(p.grad, kept) for p, kept in zip(module.parameters(), before, strict=True))
    assert all(p.grad is None for p in made.parameters())


# The search, and the method from outside.


def predictable(seed: int) -> UnlearningTask:
    """Whose forget labels are what the model predicts."""
    task = tiny_task("classifier", tiny_classifier(seed))
    inputs = task.forget.inputs
    return dataclasses.replace(task, forget=LabelledSet(inputs, task.original(inputs).argmax(dim=1)))


def test_the_search_finds_the_largest_alpha_of_the_grid_that_removes() -> None:
    task = predictable(0)
    method = SSD(full="retain", importance="norm", dampening=0.1, search=True, known_left=0.5)

    def right(module: nn.Module) -> float:
        return float((module(task.forget.inputs).argmax(dim=1) == task.forget.labels).float().mean())

    by_alpha = {alpha: dataclasses.replace(method, search=False, alpha=alpha).apply(task) for alpha in GRID}
    removing = max(alpha for alpha, module in by_alpha.items() if right(module) <= 0.5)
    assert GRID[0] > removing > GRID[-1]
    assert same_bits(weights_of(method.apply(task)), weights_of(by_alpha[removing]))


def test_a_search_that_removes_nothing_is_refused() -> None:
    """Where all data are the forget set's, no weight matters more to one than to the other."""
    task = predictable(0)
    with pytest.raises(InputError, match=r"no alpha down to 0\.1"):
        SSD(search=True, full="retain").apply(dataclasses.replace(task, retain=task.forget))


def test_the_grid_is_the_published_range() -> None:
    assert GRID[0] == 100
    assert GRID[-1] == pytest.approx(0.1)
    assert list(GRID) == sorted(GRID, reverse=True)


@pytest.mark.parametrize(
    "options", [{"importance": "fisher"}, {"full": "forget"}, {"batch_size": 0}, {"alpha": 0.0}, {"dampening": -1.0}]
)
def test_options_that_mean_nothing_are_refused(options) -> None:
    with pytest.raises(InputError):
        SSD(**options)


@pytest.mark.parametrize("kind", KINDS)
def test_from_outside_with_plain_tensors(kind: str) -> None:
    task = tiny_task(kind)
    given_sets = {"forget": task.forget, "retain": task.retain}
    if kind == "classifier":
        given_sets = {name: (data.inputs, data.labels) for name, data in given_sets.items()}
    else:
        assert all(isinstance(data, TokenSet) for data in given_sets.values())
    made = redteam.unlearn("ssd", task.original, alpha=1.2, batch_size=7, **given_sets)
    wanted = oracle_ssd(tiny_model_of(kind), task, 7, 1.2, 1.0, "all")
    for name, p in made.module.named_parameters():
        assert float((p.detach() - wanted[name]).norm() / wanted[name].norm()) < 1e-4
