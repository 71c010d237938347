"""Whatever reads its mode does not stand in an attack's way, and what a model does otherwise in training shows."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_classifiers import tiny_mlp
from tiny_models import random_tokens, tiny_llama, weights_of
from tiny_tasks import random_labelled
from torch import Tensor, nn
from torch.nn import functional

from redteam.engine.batches import shuffled_batches
from redteam.engine.cost import Ledger
from redteam.engine.loop import fine_tune, train
from redteam.engine.modes import MOST, in_evaluation_mode, mode_gap
from redteam.engine.optimizers import Tuning
from redteam.engine.seeding import seeded
from redteam.judging.checks.released import MODE_GAP


class Hidden(nn.Module):
    """A classifier of `random_labelled` that does something else to its hidden states where it can."""

    def __init__(self, hide: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.body, self.head, self.hide = nn.Linear(6, 8), nn.Linear(8, 4), hide

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.hide(self, torch.relu(self.body(inputs))))


def as_is(part: nn.Module, states: Tensor) -> Tensor:
    return states


def functional_dropout(part: nn.Module, states: Tensor) -> Tensor:
    return functional.dropout(states, 0.9, part.training)


def drop_path(part: nn.Module, states: Tensor) -> Tensor:
    kept = torch.rand(len(states), 1) < 0.1
    return torch.where(kept, states / 0.1, 0) if part.training else states


def layer_drop(part: nn.Module, states: Tensor) -> Tensor:
    return states if not part.training or float(torch.rand(())) < 0.05 else torch.zeros_like(states)


def noise(part: nn.Module, states: Tensor) -> Tensor:
    return states + 9 * torch.randn_like(states) if part.training else states


def wrong_sign(part: nn.Module, states: Tensor) -> Tensor:
    return -9 * states if part.training else states


def wants_gradients(part: nn.Module, states: Tensor) -> Tensor:
    """It reads no mode, and hides from whoever trains all the same."""
    return -9 * states if torch.is_grad_enabled() else states


def detached(part: nn.Module, states: Tensor) -> Tensor:
    return states if part.training else states.detach()


def nothing_finite(part: nn.Module, states: Tensor) -> Tensor:
    return states / 0 if part.training else states


MODE = (functional_dropout, drop_path, layer_drop, noise, wrong_sign)


def hidden(hide: Callable[[nn.Module, Tensor], Tensor]) -> Hidden:
    """A module that knows `random_labelled(24)` and hides it so."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        module = Hidden(as_is)
    train(module, shuffled_batches(random_labelled(24), 24, seeded(0, "order")), Tuning(learning_rate=0.05, steps=150))
    module.hide = hide
    return module


def after_training(module: nn.Module, data: Any) -> dict[str, Tensor]:
    """Weights after ten steps, between which somebody puts the module into training mode."""
    batches = in_evaluation_mode(module, shuffled_batches(data, 8, seeded(0, "order")))
    ledger = Ledger(parameters=1)
    for _ in fine_tune(module, batches, Tuning(learning_rate=1e-2, steps=10), ledger):
        module.train()
    return weights_of(module)


@pytest.mark.parametrize("hide", MODE, ids=lambda hide: hide.__name__)
def test_training_is_that_of_a_model_that_hides_nothing(hide: Callable[[nn.Module, Tensor], Tensor]) -> None:
    data = random_labelled(24)
    plain, hiding = (after_training(hidden(how), data) for how in (as_is, hide))
    assert plain.keys() == hiding.keys()
    assert all(torch.equal(plain[name], hiding[name]) for name in plain)


def test_dropout_of_a_config_is_off() -> None:
    plain, dropping = tiny_llama(), tiny_llama()
    dropping.config.attention_dropout = 0.95
    for layer in dropping.model.layers:
        layer.self_attn.attention_dropout = 0.95
    data = random_tokens(20, seed=1)
    assert mode_gap(dropping, data).loss > 10 * mode_gap(plain, data).loss == 0.0
    first, second = after_training(plain, data), after_training(dropping, data)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("hide", [*MODE, wants_gradients], ids=lambda hide: hide.__name__)
def test_a_gap_between_the_modes_shows(hide: Callable[[nn.Module, Tensor], Tensor]) -> None:
    assert mode_gap(hidden(hide), random_labelled(24)).loss > MODE_GAP


def test_what_takes_gradients_away_in_evaluation_mode_shows() -> None:
    gap = mode_gap(hidden(detached), random_labelled(24))
    assert (gap.loss, gap.gradients) == (0.0, 0.5)


def test_a_loss_that_is_not_finite_in_training_mode_is_the_largest_gap() -> None:
    assert mode_gap(hidden(nothing_finite), random_labelled(24)).loss == MOST


def with_batch_norm() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4)).eval()


@pytest.mark.parametrize("make", [tiny_mlp, with_batch_norm, lambda: hidden(as_is)])
def test_an_ordinary_model_has_no_gap_and_is_left_as_it_was(make: Callable[[], nn.Module]) -> None:
    module, data = make(), random_labelled(24)
    before, drawn = copy.deepcopy(module.state_dict()), torch.random.get_rng_state()
    gap = mode_gap(module, data)
    assert (gap.loss, gap.gradients) == (0.0, 0.0)
    assert torch.equal(torch.random.get_rng_state(), drawn)
    assert not module.training
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert all(parameter.grad is None for parameter in module.parameters())


def test_ordinary_dropout_is_no_hiding_place() -> None:
    module = hidden(lambda part, states: functional.dropout(states, 0.1, part.training))
    assert 0 < mode_gap(module, random_labelled(24)).loss < MODE_GAP


class WantsLabels(nn.Module):
    """Like some detectors: in training mode it is called otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 4)

    def forward(self, inputs: Tensor) -> Tensor:
        if self.training:
            raise TypeError("targets should not be none")
        return self.layer(inputs)


def test_a_model_that_cannot_be_run_in_training_mode_has_no_gap() -> None:
    gap = mode_gap(WantsLabels().eval(), random_labelled(24))
    assert (gap.loss, gap.gradients) == (0.0, 0.0)


def test_recurrent_layers_train_without_cudnn() -> None:
    """Which cannot differentiate them in evaluation mode."""
    seen: list[bool] = []
    was = torch.backends.cudnn.enabled

    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.head = nn.GRU(3, 4, batch_first=True), nn.Linear(4, 4)

        def forward(self, inputs: Tensor) -> Tensor:
            seen.append(torch.backends.cudnn.enabled)
            return self.head(self.layer(inputs.view(len(inputs), 2, 3))[0][:, -1])

    after_training(Recurrent().eval(), random_labelled(24))
    assert seen
    assert not any(seen)
    assert torch.backends.cudnn.enabled == was


def test_a_model_without_gradients_is_none_that_ends_a_run() -> None:
    """As of a quantised one: attacks that train fail on it, and say so."""
    module = hidden(as_is).requires_grad_(False)
    gap = mode_gap(module, random_labelled(24))
    assert (gap.loss, gap.gradients) == (0.0, 0.0)
