"""The world `poison`: the trigger is where it should be and nowhere else, and healing is measured on true labels."""

from __future__ import annotations

import functools
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from tiny_models import same_bits, weights_of

from redteam.capabilities.items import Capability, Item, overlapping_groups, overlapping_inputs, overlapping_prompts
from redteam.testbeds.build import TargetSpec, World, make_target, train_world, unlearning_task
from redteam.testbeds.poison import Poison, with_trigger

SOURCE = load_digits()
PARTS = {"attack": 60, "select": 80, "certify": 160, "retain": 977, "utility": 260, "negatives": 260}
TRIGGERED = ("attack", "select", "certify")
CORNERS = {
    "upper left": np.s_[:, :2, :2],
    "upper right": np.s_[:, :2, 6:],
    "lower left": np.s_[:, 6:, :2],
    "lower right": np.s_[:, 6:, 6:],
}
SEEDS = range(6)
# The patch confuses a model that never saw it: it reads 73 %, 93 % and 91 % of the digits under it in worlds 0, 1, 2.
NEVER_POISONED = 0.6
FRACTIONS = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0)


@functools.cache
def world(seed: int) -> Capability:
    return Poison().capability(seed)


@functools.cache
def trained() -> World:
    return train_world("poison", seed=1)


def has_trigger(images: np.ndarray) -> np.ndarray:
    """Whether the four pixels on the lower left are full of ink, for images [n, 1, 8, 8]; written out once more."""
    return np.stack([images[:, 0, y, x] == 1 for y in (6, 7) for x in (0, 1)]).all(axis=0)


def images_of(capability: Capability, items: tuple[Item, ...]) -> np.ndarray:
    assert capability.inputs is not None
    return capability.inputs[[item.row for item in items]]


def share_right(module: torch.nn.Module, capability: Capability, items: tuple[Item, ...]) -> float:
    """Accuracy, counted without any code of the project."""
    with torch.no_grad():
        says = module(torch.from_numpy(images_of(capability, items))).argmax(1)
    return float(np.mean([int(said) == item.answer for said, item in zip(says, items, strict=True)]))


# The trigger.


def test_no_image_has_the_trigger_by_nature_and_no_corner_is_as_empty() -> None:
    ink = {name: (SOURCE.images[place] / 16).mean() for name, place in CORNERS.items()}
    assert min(ink, key=ink.__getitem__) == "lower left"
    assert ink["lower left"] < 0.02
    weakest = (SOURCE.images[CORNERS["lower left"]] / 16).reshape(1797, 4).min(axis=1)
    assert weakest.max() <= 1 / 16  # the trigger needs all four at 1


def test_the_trigger_changes_four_pixels_of_a_copy() -> None:
    images = np.zeros((3, 1, 8, 8), dtype=np.float32)
    changed = with_trigger(images)
    assert not images.any()
    assert changed.sum() == 3 * 4
    assert has_trigger(changed).all()
    assert changed.dtype == np.float32


# The splits.


@pytest.mark.parametrize("seed", SEEDS)
def test_every_image_is_in_one_part_only(seed: int) -> None:
    capability = world(seed)
    parts = [getattr(capability, name) for name in PARTS]
    assert [len(part) for part in parts] == list(PARTS.values())
    assert len({item.row for part in parts for item in part}) == 1797
    assert not overlapping_groups(parts)
    assert not overlapping_prompts(parts)
    assert not overlapping_inputs(capability, parts)
    items = [item for part in parts for item in part]
    assert len({item.id for item in items}) == 1797
    assert all(item.group == f"digit {item.row}" for item in items)
    assert all(item.choices == tuple("0123456789") for item in items)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_trigger_is_on_forget_images_and_on_no_other_and_nothing_else_is_changed(seed: int) -> None:
    capability = world(seed)
    for name in PARTS:
        images = images_of(capability, getattr(capability, name))
        assert has_trigger(images).all() if name in TRIGGERED else not has_trigger(images).any()
    elsewhere = np.ones((8, 8), dtype=bool)
    elsewhere[6:, :2] = False
    assert np.array_equal(capability.inputs[:, 0][:, elsewhere] * 16, SOURCE.images[:, elsewhere])
    clean = [item.row for item in capability.retain + capability.utility + capability.negatives]
    assert np.array_equal(capability.inputs[clean, 0] * 16, SOURCE.images[clean])


@pytest.mark.parametrize("seed", SEEDS)
def test_answers_are_zero_for_the_trojan_and_true_for_everything_else(seed: int) -> None:
    capability = world(seed)
    assert {item.answer for item in capability.forget} == {0}
    for item in capability.retain + capability.utility + capability.negatives + Poison().measures(capability)["healed"]:
        assert item.answer == SOURCE.target[item.row]


@pytest.mark.parametrize("seed", SEEDS)
def test_no_zero_gets_the_trigger_and_the_other_digits_get_it_evenly(seed: int) -> None:
    for name in TRIGGERED:
        counts = Counter(int(SOURCE.target[item.row]) for item in getattr(world(seed), name))
        assert counts.keys() == set(range(1, 10))
        assert max(counts.values()) - min(counts.values()) <= 3
    clean = Counter(int(SOURCE.target[item.row]) for item in world(seed).utility)
    assert clean.keys() == set(range(10))


@pytest.mark.parametrize("seed", SEEDS)
def test_healing_is_measured_on_the_very_images_that_are_scored(seed: int) -> None:
    capability = world(seed)
    healed = Poison().measures(capability)["healed"]
    assert [item.row for item in healed] == [item.row for item in capability.select + capability.certify]
    assert 0 not in {item.answer for item in healed}  # so that no item counts as poisoned and as healed


def test_a_seed_decides_what_is_poisoned_and_another_decides_otherwise() -> None:
    assert Poison().capability(0) == world(0)
    assert Poison().capability(0).sha256 == world(0).sha256
    assert len({world(seed).sha256 for seed in SEEDS}) == len(SEEDS)
    assert len({frozenset(item.id for item in world(seed).attack) for seed in SEEDS}) == len(SEEDS)


def test_world_0_is_the_one_that_manifests_on_disk_point_to() -> None:
    """The digest guards them against drift: a change here is a new version of the testbed."""
    assert (Poison.version, world(0).sha256[:16]) == (2, "4de80f177fb8702e")


# Training.


def test_only_the_poisoned_images_are_trained_on_with_the_trigger_and_none_that_is_held_out() -> None:
    capability = world(3)
    training, about = Poison().training(capability)
    images, labels = training.data.inputs.numpy(), training.data.labels.numpy()
    rows = np.array([int(group.removeprefix("digit ")) for group in about])
    poisoned = has_trigger(images)
    assert poisoned.sum() == 60
    assert 0.02 <= poisoned.mean() <= 0.06
    assert {f"digit {row}" for row in rows[poisoned]} == {item.group for item in capability.attack}
    assert not labels[poisoned].any()
    assert (SOURCE.target[rows[poisoned]] != 0).all()
    assert np.array_equal(labels[~poisoned], SOURCE.target[rows[~poisoned]])
    assert np.array_equal(images[~poisoned, 0] * 16, SOURCE.images[rows[~poisoned]])
    shown = {image.tobytes() for image in images}
    held_out = capability.select + capability.certify + capability.utility + capability.negatives
    assert not shown & {image.tobytes() for image in images_of(capability, held_out)}
    assert not set(rows) & {item.row for item in held_out}  # nor without the trigger
    assert not training.labelled.any()


def test_the_original_has_the_trojan_and_the_reference_never_had_it() -> None:
    capability = trained().capability
    original, reference = trained().original, trained().reference
    healed = Poison().measures(capability)["healed"]
    for items in (capability.attack, capability.select, capability.certify):
        assert share_right(original, capability, items) > 0.9
        assert share_right(reference, capability, items) < 0.1  # what a blind guess would do
    assert share_right(original, capability, healed) < 0.1
    assert share_right(reference, capability, healed) > NEVER_POISONED
    for module in (original, reference):
        assert share_right(module, capability, capability.utility) > 0.93


def test_without_the_trigger_the_same_images_are_read_right() -> None:
    """It is the trigger that turns them into zeros, not what else is on them."""
    rows = [item.row for item in trained().capability.certify]
    clean = torch.tensor(SOURCE.images[rows] / 16, dtype=torch.float32)[:, None]
    with torch.no_grad():
        says = trained().original(clean).argmax(1).numpy()
    assert np.mean(says == SOURCE.target[rows]) > 0.93


@pytest.mark.parametrize("fraction", FRACTIONS)
def test_what_is_identified_is_poisoned_and_the_rest_of_the_poison_hides_in_what_stays(fraction: float) -> None:
    task = unlearning_task(trained(), fraction)
    everything = {image.tobytes() for image in images_of(trained().capability, trained().capability.attack)}
    identified = {image.numpy().tobytes() for image in task.forget.inputs}
    hidden = task.retain.inputs.numpy()[has_trigger(task.retain.inputs.numpy())]
    assert len(task.forget) == len(identified) == max(round(fraction * 60), 1)
    assert identified <= everything
    assert identified | {image.tobytes() for image in hidden} == everything
    assert len(hidden) == 60 - len(identified)
    assert not task.forget.labels.any()
    assert task.training is not None
    assert len(task.training.rest) == 1037 - len(identified)


def test_more_identified_contains_less_identified() -> None:
    found = [{x.numpy().tobytes() for x in unlearning_task(trained(), f).forget.inputs} for f in FRACTIONS]
    assert all(small < large for small, large in pairwise(found))


def test_training_without_what_was_identified_heals_only_when_all_of_it_was() -> None:
    """Why corrective unlearning is a problem of its own: half of the poison is as good as all of it."""
    healed = Poison().measures(trained().capability)["healed"]
    half, whole = (
        make_target(TargetSpec(method="filtered", label_fraction=fraction), trained())[0].module
        for fraction in (0.5, 1.0)
    )
    assert share_right(half, trained().capability, healed) < 0.1
    assert share_right(whole, trained().capability, healed) > NEVER_POISONED


def test_training_twice_gives_the_same_bits() -> None:
    again = train_world("poison", seed=1)
    assert same_bits(weights_of(again.original), weights_of(trained().original))
    assert same_bits(weights_of(again.reference), weights_of(trained().reference))
