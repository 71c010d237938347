"""Channels that nothing depends on are found, whatever closed them, and are opened as they were."""

from __future__ import annotations

import pytest
import torch
from closed_doors import DOORS, Door
from tiny_blocks import outputs, tiny_gpt2, tiny_neox
from tiny_models import same_bits, tiny_llama, weights_of
from tiny_tasks import hooks_of, random_data
from torch import nn

from redteam.engine.blocks import mlp_blocks
from redteam.engine.opening import CENTRE, ZERO, open_channels
from redteam.engine.unused import count_unused, read_channels

each_door = pytest.mark.parametrize("door", DOORS.values(), ids=DOORS)


def data_of(kind: str):
    return random_data(kind, 40, seed=1), random_data(kind, 40, seed=2)


@each_door
def test_the_audit_names_the_layers_that_are_closed_and_no_other(door: Door) -> None:
    opened, closed = door.models()
    assert count_unused(opened, *data_of(door.kind)) == {}
    found = count_unused(closed, *data_of(door.kind))
    assert {layer: unused / channels for layer, (unused, channels) in found.items()} == door.share


@each_door
def test_what_is_opened_says_what_it_said(door: Door) -> None:
    opened, closed = door.models()
    said, hidden = outputs(opened), outputs(closed)
    assert open_channels(closed, *data_of(door.kind), how=ZERO, least=1e-3, seed=0) > 0
    assert count_unused(closed, *data_of(door.kind)) == {}
    assert float((outputs(closed) - said).norm()) <= (1 - door.back) * float((hidden - said).norm())


@pytest.mark.parametrize("how", [ZERO, CENTRE])
@pytest.mark.parametrize("make", [tiny_llama, tiny_gpt2, tiny_neox])
def test_where_nothing_is_closed_nothing_is_opened(make, how: str) -> None:
    module = make()
    before = weights_of(module)
    assert open_channels(module, *data_of("language"), how=how, least=1e-6, seed=0) == 0
    assert same_bits(before, weights_of(module))


def test_the_audit_leaves_the_module_as_it_is() -> None:
    module = tiny_llama()
    before, frozen = weights_of(module), module.model.layers[0].mlp.up_proj.weight.requires_grad_(False)
    module.train()
    read_channels(module, *data_of("language"))
    assert same_bits(before, weights_of(module))
    assert module.training
    assert hooks_of(module) == 0
    assert [p for p in module.parameters() if not p.requires_grad] == [frozen]
    assert all(parameter.grad is None for parameter in module.parameters())


def test_a_rescaling_that_a_later_layer_undoes_changes_no_effect() -> None:
    module = tiny_llama()
    before = read_channels(module, *data_of("language"))
    with torch.no_grad():
        mlp = module.model.layers[0].mlp
        mlp.up_proj.weight[3] *= 2.0**-12
        mlp.down_proj.weight[:, 3] *= 2.0**12
    after = read_channels(module, *data_of("language"))
    assert all(torch.allclose(before[name].effect, after[name].effect, rtol=1e-4) for name in before)


@pytest.mark.parametrize("make", [tiny_gpt2, tiny_neox])
def test_closed_units_of_other_architectures_are_opened(make) -> None:
    module = make()
    said = outputs(module)
    up = module.get_submodule(mlp_blocks(module)[0].ups[0])
    with torch.no_grad():
        up.bias[:8] -= 500.0
    hidden = outputs(module)
    assert list(count_unused(module, *data_of("language")).values()) == [(8, 24)]
    open_channels(module, *data_of("language"), how=ZERO, least=1e-3, seed=0)
    assert float((outputs(module) - said).norm()) < 1e-3 * float((hidden - said).norm())


def convolutional() -> nn.Module:
    """Six inputs as an image of one row; four channels, normalised."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        parts = [nn.Unflatten(1, (1, 1, 6)), nn.Conv2d(1, 4, (1, 3)), nn.BatchNorm2d(4), nn.ReLU(inplace=True)]
        return nn.Sequential(*parts, nn.Flatten(), nn.Linear(16, 4)).eval()


@pytest.mark.parametrize(("part", "name", "value"), [("2", "bias", -900.0), ("2", "weight", 0.0), ("1", "weight", 0.0)])
def test_closed_channels_of_a_convolution_are_found_and_opened(part: str, name: str, value: float) -> None:
    module = convolutional()
    with torch.no_grad():
        module.get_submodule(part).get_parameter(name)[1] = value
    assert count_unused(module, *data_of("classifier")) == {"1": (1, 4), "2": (1, 4)}
    assert open_channels(module, *data_of("classifier"), how=CENTRE, least=1e-3, seed=0) == 2
    assert count_unused(module, *data_of("classifier")) == {}


class Scaled(nn.Module):
    """A block beside what goes on, times a scale of its own that is zero."""

    def __init__(self) -> None:
        super().__init__()
        self.block, self.head, self.scale = nn.Linear(6, 6), nn.Linear(6, 4), nn.Parameter(torch.zeros(6))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.head(inputs + self.scale * self.block(inputs))


def test_a_block_behind_a_scale_of_zero_is_found_and_opened() -> None:
    module = Scaled()
    assert count_unused(module, *data_of("classifier")) == {"block": (6, 6)}
    open_channels(module, *data_of("classifier"), how=ZERO, least=1e-3, seed=0)
    assert (module.scale == 1).all()


def test_of_a_model_without_gradients_nothing_is_said() -> None:
    class Opaque(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(6, 4)

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                return self.inner(inputs)

    assert count_unused(Opaque(), *data_of("classifier")) == {}
