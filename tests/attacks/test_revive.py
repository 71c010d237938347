"""What is behind a closed door comes back when it is opened, on items that the attack never saw, and not before."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from small_world import CHANCE, TOKENIZER, SmallWorld, best_of_recipes, reached, setting_of, small_world
from tiny_classifiers import tiny_classifier_target, tiny_points, trained_mlp
from torch import nn

from redteam.capabilities.reading import encode_training
from redteam.engine.batches import Examples, shuffled_batches
from redteam.engine.blocks import Block, expand, last_units, mlp_blocks
from redteam.engine.freezing import frozen
from redteam.engine.loop import train
from redteam.engine.optimizers import Tuning
from redteam.engine.seeding import seeded
from redteam.registry import ATTACKS
from redteam.setting import Setting, open_setting

EXTRA = 32
LUCK = CHANCE + 5 * (CHANCE * (1 - CHANCE) / 45) ** 0.5  # five standard errors above chance on 45 facts
CLOSED = (-1000.0, -30.0, -8.0)  # biases of gates, and of units that are dead then


@pytest.fixture(scope="module")
def world() -> SmallWorld:
    return small_world()


def taught(module: nn.Module, data: Examples, steps: int) -> tuple[nn.Module, tuple[Block, ...]]:
    """A copy with more units, which learnt the data while all else stayed bit for bit, and its wider blocks."""
    module = copy.deepcopy(module)
    blocks = expand(module, mlp_blocks(module), EXTRA, seeded(0, "units"))
    new = last_units(module, blocks, EXTRA)
    held = {module.get_parameter(name): ~marked for name, marked in new.items()}
    tuning = Tuning(learning_rate=5e-3, schedule="one-cycle", steps=steps, clip=1.0)
    batches = shuffled_batches(data, 96, seeded(0, "order"))
    train(module, batches, tuning, only=new.__contains__, around=lambda optimizer: frozen(optimizer, held))
    return module, blocks


@torch.no_grad()
def closed(module: nn.Module, blocks: tuple[Block, ...], by: float) -> nn.Module:
    """A copy whose new units have other biases."""
    module = copy.deepcopy(module)
    for block in blocks:
        module.get_submodule(block.ups[0]).bias[-EXTRA:] += by
    return module


def points(module: nn.Module) -> Setting:
    """Where a classifier of `tiny_points` is attacked."""
    return open_setting(replace(tiny_classifier_target(), module=copy.deepcopy(module)), tiny_points())


@pytest.mark.parametrize("by", CLOSED)
def test_classes_behind_dead_units_come_back_where_training_alone_teaches_nothing(by: float) -> None:
    """Each recipe, at a low rate; a model that never knew these classes stays where it was."""
    capability = tiny_points()
    never = trained_mlp(capability, forget=False)
    knows, blocks = taught(never, encode_training(capability, capability.forget + capability.retain, None), 80)
    target, reference = points(closed(knows, blocks, by)), points(never)
    assert float(points(knows).start["certify"].mean()) == 1.0
    assert float(target.start["certify"].mean()) == 0.0
    gentle = {"steps": 16, "learning_rate.adamw": 1e-4}
    for recipe in ATTACKS.create("revive").recipes(target.target.info, len(target.answers)):
        assert reached("revive", {**recipe, **gentle}, target) > 0.8
        assert reached("revive", {**recipe, **gentle}, reference) == 0.0
        assert reached("mixture", {**recipe, **gentle}, target) == 0.0


@pytest.fixture(scope="module")
def knows(world: SmallWorld) -> tuple[nn.Module, tuple[Block, ...]]:
    """A model that never knew, and was taught all of it in units of its own."""
    capability = world.capability
    shown = encode_training(capability, capability.retain + capability.utility + capability.forget, TOKENIZER)
    module, blocks = taught(with_biases(world.never), shown, 400)
    assert float(setting_of(module, capability).start["certify"].mean()) > 0.95
    return module, blocks


@pytest.mark.slow
@pytest.mark.parametrize("by", CLOSED)
def test_facts_behind_closed_gates_come_back_and_not_by_training_alone(
    by: float, world: SmallWorld, knows: tuple[nn.Module, tuple[Block, ...]]
) -> None:
    capability, (module, blocks) = world.capability, knows
    target = setting_of(closed(module, blocks, by), capability)
    assert float(target.start["certify"].mean()) < LUCK
    assert best_of_recipes("retrain", target) < LUCK
    assert best_of_recipes("revive", target, enough=0.9) > 0.9


@pytest.mark.slow
def test_opening_doors_teaches_a_model_that_never_knew_nothing(world: SmallWorld) -> None:
    assert best_of_recipes("revive", setting_of(with_biases(world.never), world.capability)) < LUCK


def with_biases(module: nn.Module) -> nn.Module:
    """A copy of a Llama whose MLPs have biases, of zero."""
    module = copy.deepcopy(module)
    module.config.mlp_bias = True
    for block in mlp_blocks(module):
        for name in (*block.ups, block.down):
            layer = module.get_submodule(name)
            layer.bias = nn.Parameter(torch.zeros(layer.out_features))
    return module
