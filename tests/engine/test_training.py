"""A recipe of training: what it shows, in which order, from which weights."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from tiny_models import same_bits, weights_of
from tiny_tasks import moved, random_data, tensors_of, tiny_model_of, tiny_training
from torch import nn

from redteam.engine.batches import LabelledSet, shuffled_batches
from redteam.engine.loop import train
from redteam.engine.optimizers import Tuning
from redteam.engine.seeding import derive_seed, seeded
from redteam.engine.training import Training

KINDS = pytest.mark.parametrize("kind", ["language", "classifier"])


def training(kind: str, **changes) -> Training:
    return tiny_training(kind, random_data(kind, 20, 1), random_data(kind, 24, 2), **changes)


@KINDS
def test_forget_and_rest_are_the_whole_and_share_nothing(kind: str) -> None:
    made = training(kind)
    assert (len(made.forget), len(made.rest), len(made.data)) == (20, 24, 44)
    for forget, rest, whole in zip(*map(tensors_of, (made.forget, made.rest, made.data)), strict=True):
        assert torch.equal(torch.cat([forget, rest]), whole)


@KINDS
def test_with_no_label_nothing_is_to_be_forgotten(kind: str) -> None:
    made = training(kind, labelled=torch.zeros(44, dtype=torch.bool))
    assert len(made.forget) == 0
    assert len(made.rest) == 44


@KINDS
def test_fit_is_the_shared_loop_from_the_seeds_weights_and_order(kind: str) -> None:
    made = training(kind)
    bare = tiny_model_of(kind, derive_seed(5, "weights"))
    train(bare, shuffled_batches(made.rest, 8, seeded(5, "order")), made.tuning)
    fitted = made.fit(made.rest, seed=5)
    assert same_bits(weights_of(fitted), weights_of(bare))
    assert moved(made.new(5), fitted)
    assert not fitted.training


@KINDS
def test_deterministic_for_a_seed_and_the_global_generator_stays(kind: str) -> None:
    made, found = training(kind), []
    for seed in (0, 0, 1):
        torch.manual_seed(len(found))
        state = torch.random.get_rng_state()
        found.append(made.fit(made.data, seed=seed))
        assert torch.equal(torch.random.get_rng_state(), state)
    assert not moved(found[0], found[1])
    assert moved(found[0], found[2])


def test_dropout_is_of_the_seed_too() -> None:
    def build(seed: int) -> nn.Module:
        return nn.Sequential(tiny_model_of("classifier", seed), nn.Dropout(0.5))

    made, found = training("classifier", build=build), []
    for seed in range(2):
        torch.manual_seed(seed)
        found.append(made.fit(made.data, seed=0))
    assert not moved(*found)


def test_every_fit_makes_the_same_number_of_steps_and_tells_of_each() -> None:
    made = training("classifier", tuning=Tuning(learning_rate=1e-2, steps=7))
    for data in (made.data, made.rest, made.data.take(slice(0, 3))):
        heard: list[tuple[str, int, int]] = []
        made.fit(data, seed=0, progress=lambda *what, heard=heard: heard.append(what), what="this")
        assert heard == [("this", step, 7) for step in range(1, 8)]


def test_only_the_data_given_are_seen() -> None:
    seen: list[torch.Tensor] = []
    made = training("classifier")

    def watching(module, batch):
        seen.append(batch.inputs)
        return batch.loss(module)

    made.fit(made.rest, seed=0, loss=watching)
    shown = {row.numpy().tobytes() for batch in seen for row in batch}
    assert shown <= {row.numpy().tobytes() for row in made.rest.inputs}
    assert len(shown) == 24  # four steps of eight of twenty-four: an epoch and a third


def test_without_labels_filtering_from_the_originals_seed_is_the_original() -> None:
    made = training("classifier")
    original = made.fit(made.data, seed=derive_seed(3, "original"))
    unlabelled = dataclasses.replace(made, labelled=torch.zeros(44, dtype=torch.bool))
    assert not moved(original, unlabelled.fit(unlabelled.rest, seed=derive_seed(3, "original")))
    assert moved(original, made.fit(made.rest, seed=derive_seed(3, "original")))


def test_a_classifier_set_is_rows() -> None:
    data = random_data("classifier", 9, 0)
    assert isinstance(data, LabelledSet)
    batch = data.batch(torch.tensor([3, 1]))
    assert (batch.samples, batch.tokens, batch.real.tolist()) == (2, 2, [True, True])
    assert torch.equal(batch.inputs, data.inputs[[3, 1]])
    assert torch.equal(batch.labels, data.labels[[3, 1]])
