"""States of convolutional nets: whole where they are small, pooled to a few cells where they are not."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from own_resnet import Block, small_cnn
from tiny_views import view_of
from torch import nn

from redteam.capabilities.items import Capability, Item
from redteam.probes.states import POOLED, WIDEST, _flat, layers_of, read_layers
from redteam.registry import PROBES

SPLITS = {"attack": (0, 40), "select": (40, 80), "certify": (80, 120), "retain": (120, 160), "utility": (160, 200)}


def pictures(size: int, channels: int = 1) -> Capability:
    """Noise of size x size whose upper half is brighter the higher the class, of four."""
    rng = np.random.default_rng(0)
    answers = np.arange(200) % 4
    images = rng.normal(0, 0.1, (200, channels, size, size))
    images[:, :, : size // 2] += answers[:, None, None, None]
    items = [
        Item(
            id=f"i{row}", group=f"i{row}", prompt="a picture", choices=tuple("abcd"), answer=int(answers[row]), row=row
        )
        for row in range(200)
    ]
    parts = {name: tuple(items[slice(*rows)]) for name, rows in SPLITS.items()}
    return Capability(name="pictures", **parts, inputs=images.astype(np.float32))


def net(build: type | object) -> nn.Module:
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        return build().eval()  # type: ignore[operator]


def small_resnet() -> nn.Module:
    """A stem and a block, whose states on 32 x 32 have 16,384 features."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), Block(16, 16, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(16, 4),
    )  # fmt: skip


@pytest.mark.parametrize("name", [name for name in PROBES.table if "classifier" in PROBES.create(name).kinds])
def test_every_probe_reads_a_convolutional_net(name: str) -> None:
    """With states of 16,384 features some took half an hour a layer, and 2 GB for each of several matrices."""
    module, capability = net(small_resnet), pictures(32, channels=3)
    layers = layers_of(module, None, capability)
    assert {states.shape[1] for states in layers("attack").states.values()} == {POOLED}
    view = dataclasses.replace(view_of(module, capability, original=net(small_resnet)), layers=layers)
    reading = PROBES.create(name).read(view)
    assert len(reading.correct) == 40
    if name in ("linear", "means", "mlp"):
        assert np.mean(reading.correct) > 0.9  # the upper half is still told from the lower


def test_states_that_are_small_enough_stay_as_they_are() -> None:
    capability, module = pictures(8), net(small_cnn)
    found = read_layers(module, None, capability, capability.select).states
    with torch.no_grad():
        inputs = torch.from_numpy(capability.inputs[40:80])  # type: ignore[index]
        expected = module[0](inputs).flatten(1).numpy()
    assert expected.shape[1] == 16 * 8 * 8 <= WIDEST
    assert np.array_equal(found["0"], expected)


@pytest.mark.parametrize(
    ("shape", "layer", "kept"),
    [
        ((3, 16, 32, 32), nn.Conv2d(1, 16, 1), 16 * 4 * 4),
        ((3, 64, 2, 100), nn.BatchNorm2d(64), 64 * 2 * 2),
        ((3, 1000, 2, 2), nn.Conv2d(1, 1000, 1), 1000),
        ((3, 16, 1000), nn.Conv1d(1, 16, 1), 16 * 16),
        ((3, 8, 16, 16, 16), nn.Conv3d(1, 8, 1), 8 * 3**3),
        ((3, 30, 30, 16), nn.Linear(4, 16), 16 * 4 * 4),
        ((3, 30, 30, 16), nn.LayerNorm(16), 16 * 4 * 4),
    ],
)
def test_channels_are_kept_and_places_are_averaged(shape: tuple[int, ...], layer: nn.Module, kept: int) -> None:
    """Each channel holds its own number, which is in every cell of it and nowhere else."""
    last = isinstance(layer, nn.Linear | nn.LayerNorm)
    channels = shape[-1] if last else shape[1]
    numbers = torch.arange(channels, dtype=torch.float32)
    states = numbers.view([1, *([1] * (len(shape) - 2)), -1] if last else [1, -1, *([1] * (len(shape) - 2))])
    found = _flat(states.expand(shape), layer)[""]
    assert found.shape == (3, kept)
    assert torch.allclose(found[0].view(channels, -1), numbers[:, None])


def test_tokens_of_a_block_are_the_first_and_the_mean() -> None:
    states = torch.randn(2, 100, 64)
    found = _flat(states, nn.Sequential(nn.Linear(64, 64)))
    assert list(found) == [", first", ", mean"]
    assert torch.equal(found[", first"], states[:, 0])
    assert torch.allclose(found[", mean"], states.mean(dim=1))
