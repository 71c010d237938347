"""The world `digits`: one digit of ten is forgotten, and no held-out image was ever trained on."""

from __future__ import annotations

import functools
import random
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from tiny_models import same_bits, weights_of

from redteam.capabilities.items import Capability, Item, overlapping_groups, overlapping_inputs, overlapping_prompts
from redteam.testbeds.build import World, train_world, unlearning_task
from redteam.testbeds.digits import Digits
from redteam.testbeds.images import cut, load_images, stratified

SOURCE = load_digits()
PARTS = {"attack": 32, "select": 40, "certify": 95, "retain": 1014, "utility": 300, "negatives": 300}
UNSEEN = 16
SEEDS = range(6)


@functools.cache
def world(seed: int) -> Capability:
    return Digits().capability(seed)


@functools.cache
def trained() -> World:
    return train_world("digits", seed=1)


def parts_of(capability: Capability) -> dict[str, tuple[Item, ...]]:
    return {name: getattr(capability, name) for name in PARTS}


def share_right(module: torch.nn.Module, capability: Capability, items: tuple[Item, ...]) -> float:
    """Accuracy, counted without any code of the project."""
    assert capability.inputs is not None
    with torch.no_grad():
        says = module(torch.from_numpy(capability.inputs[[item.row for item in items]])).argmax(1)
    return float(np.mean([int(said) == item.answer for said, item in zip(says, items, strict=True)]))


# The images.


def test_the_images_are_those_of_scikit_learn_scaled_to_one() -> None:
    inputs, digits = load_images()
    assert (inputs.shape, inputs.dtype, digits.dtype) == ((1797, 1, 8, 8), np.float32, np.int64)
    assert np.array_equal(inputs[:, 0] * 16, SOURCE.images)
    assert np.array_equal(digits, SOURCE.target)
    assert (inputs.min(), inputs.max()) == (0, 1)


def test_no_image_occurs_twice() -> None:
    """So that to hold out a row is to hold out an image."""
    assert len({image.tobytes() for image in load_images()[0]}) == 1797


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(0, 2**32), st.data())
def test_any_run_of_a_stratified_order_has_the_proportions_of_the_whole(digits, seed, data) -> None:
    whole, total = Counter(digits), len(digits)
    order = stratified(range(total), np.array(digits), random.Random(seed))
    assert sorted(order) == list(range(total))
    start = data.draw(st.integers(0, total))
    run = order[start : data.draw(st.integers(start, total))]
    found = Counter(digits[row] for row in run)
    # Of the places in [a, b), a digit with n images holds n (b - a), give or take one, and so do the k digits together,
    # give or take k; the length of the run is theirs.
    for digit, count in whole.items():
        assert abs(found[digit] - len(run) * count / total) <= 1 + len(whole) * count / total


def test_cutting_keeps_order_and_everything() -> None:
    assert cut([5, 3, 1, 2, 4], 2, 1) == [[5, 3], [1], [2, 4]]
    assert cut([1], 1) == [[1], []]


# The splits.


@pytest.mark.parametrize("seed", SEEDS)
def test_every_image_is_in_one_part_only(seed: int) -> None:
    capability = world(seed)
    parts = [*parts_of(capability).values(), Digits().measures(capability)["unseen"]]
    assert [len(part) for part in parts] == [*PARTS.values(), UNSEEN]
    assert sum(len(part) for part in parts) == 1797
    assert not overlapping_groups(parts)
    assert not overlapping_prompts(parts)
    assert not overlapping_inputs(capability, parts)
    for item in (item for part in parts for item in part):
        assert item.choices == tuple("0123456789")
        assert item.completion == str(SOURCE.target[item.row])
        assert (item.group, item.prompt) == (f"digit {item.row}", f"digit {item.row}")
        assert np.array_equal(capability.inputs[item.row, 0] * 16, SOURCE.images[item.row])


@pytest.mark.parametrize("seed", SEEDS)
def test_the_three_is_forgotten_and_nothing_else(seed: int) -> None:
    capability = world(seed)
    for name, items in parts_of(capability).items():
        digits = {int(SOURCE.target[item.row]) for item in items}
        assert digits == ({3} if name in ("attack", "select", "certify") else {0, 1, 2, 4, 5, 6, 7, 8, 9})
    assert {SOURCE.target[item.row] for item in Digits().measures(capability)["unseen"]} == {3}


@pytest.mark.parametrize("seed", SEEDS)
def test_the_digits_that_stay_are_held_out_evenly(seed: int) -> None:
    for part in (world(seed).utility, world(seed).negatives):
        held_out = Counter(int(SOURCE.target[item.row]) for item in part)
        for digit, count in held_out.items():
            assert abs(count - 300 * (SOURCE.target == digit).sum() / 1614) <= 2


def test_three_has_the_most_images() -> None:
    assert np.bincount(SOURCE.target).argmax() == 3


def test_six_threes_in_ten_have_a_nine_beside_them() -> None:
    threes, others = SOURCE.data[SOURCE.target == 3], SOURCE.target != 3
    nearest = [((SOURCE.data[others] - three) ** 2).sum(axis=1).argmin() for three in threes]
    assert np.mean(SOURCE.target[others][nearest] == 9) == pytest.approx(0.6, abs=0.05)


def test_a_seed_decides_the_splits_and_another_decides_otherwise() -> None:
    assert Digits().capability(0) == world(0)
    assert Digits().capability(0).sha256 == world(0).sha256
    assert len({world(seed).sha256 for seed in SEEDS}) == len(SEEDS)
    assert len({frozenset(item.id for item in world(seed).certify) for seed in SEEDS}) == len(SEEDS)


def test_drawing_a_world_leaves_the_global_generators_alone() -> None:
    random.seed(3)
    torch.manual_seed(3)
    np.random.seed(3)
    states = random.getstate(), torch.random.get_rng_state(), np.random.get_state()[1].copy()
    Digits().training(Digits().capability(1))[0].new(0)
    assert random.getstate() == states[0]
    assert torch.equal(torch.random.get_rng_state(), states[1])
    assert np.array_equal(np.random.get_state()[1], states[2])


def test_world_0_is_the_one_that_manifests_on_disk_point_to() -> None:
    """The digest guards them against drift: a change here is a new version of the testbed."""
    assert (Digits.version, world(0).sha256[:16]) == (2, "8feca8c666210e6b")


# Training.


def test_nothing_that_is_held_out_is_trained_on() -> None:
    capability = world(2)
    training, about = Digits().training(capability)
    shown = {image.numpy().tobytes(): int(label) for image, label in zip(*_data(training), strict=True)}
    assert len(shown) == len(about) == 32 + 40 + 95 + 1014
    held_out = capability.utility + capability.negatives + Digits().measures(capability)["unseen"]
    assert not shown.keys() & {capability.inputs[item.row].tobytes() for item in held_out}
    for item in capability.forget + capability.retain:
        assert shown[capability.inputs[item.row].tobytes()] == SOURCE.target[item.row]
    for group, image in zip(about, _data(training)[0], strict=True):
        assert np.array_equal(image[0].numpy() * 16, SOURCE.images[int(group.removeprefix("digit "))])
    assert not training.labelled.any()


def _data(training) -> tuple[torch.Tensor, torch.Tensor]:
    return training.data.inputs, training.data.labels


def test_weights_are_a_function_of_the_seed() -> None:
    training, _ = Digits().training(world(0))
    assert same_bits(weights_of(training.new(4)), weights_of(training.new(4)))
    assert not same_bits(weights_of(training.new(4)), weights_of(training.new(5)))


def test_the_original_knows_every_digit_and_the_reference_all_but_the_three() -> None:
    capability = trained().capability
    unseen = Digits().measures(capability)["unseen"]
    original, reference = trained().original, trained().reference
    for items in (capability.certify, capability.utility, unseen):
        assert share_right(original, capability, items) > 0.95
    assert share_right(reference, capability, capability.utility) > 0.95
    assert share_right(reference, capability, capability.forget + unseen) == 0


@pytest.mark.parametrize("fraction", [0.05, 0.5, 1])
def test_what_is_labelled_are_threes_and_the_other_threes_are_mixed_into_what_stays(fraction: float) -> None:
    task = unlearning_task(trained(), fraction)
    assert set(task.forget.labels.tolist()) == {3}
    assert len(task.forget) == round(fraction * 167)
    assert (task.retain.labels == 3).sum() == 167 - len(task.forget)
    assert len(task.retain) == 1014 + 167 - len(task.forget)


def test_training_twice_gives_the_same_bits() -> None:
    again = train_world("digits", seed=1)
    assert same_bits(weights_of(again.original), weights_of(trained().original))
    assert same_bits(weights_of(again.reference), weights_of(trained().reference))
