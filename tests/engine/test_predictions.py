"""What a batch makes of a module: loss and predictions, of text and of classes, against torch and transformers."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from tiny_models import random_tokens, tiny_llama
from tiny_tasks import random_data, random_labelled, tiny_classifier, tiny_model_of
from torch import nn

from redteam.engine.batches import IGNORED, ordered_batches, shuffled_batches

KINDS = pytest.mark.parametrize("kind", ["language", "classifier"])


@KINDS
@pytest.mark.parametrize("seed", range(4))
def test_the_loss_is_that_of_the_predictions(kind: str, seed: int) -> None:
    module, batch = tiny_model_of(kind), random_data(kind, 11, seed).batch(slice(None))
    with torch.no_grad():
        assert batch.loss(module).item() == pytest.approx(batch.predictions(module).loss.item(), rel=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_of_text_it_is_transformers_own_loss(seed: int) -> None:
    module, batch = tiny_llama(), random_tokens(11, seed).batch(slice(None))
    with torch.no_grad():
        theirs = module(input_ids=batch.input_ids, attention_mask=batch.mask, labels=batch.labels).loss
        assert batch.predictions(module).loss.item() == pytest.approx(theirs.item(), rel=1e-6)


def test_predictions_of_text_are_those_before_each_labelled_token() -> None:
    """Against one unpadded sequence at a time."""
    module, data = tiny_llama(), random_tokens(9, seed=3)
    batch = data.batch(slice(None))
    with torch.no_grad():
        said = batch.predictions(module)
        wanted = []
        for row, length in enumerate(data.lengths.tolist()):
            logits = module(batch.input_ids[row : row + 1, :length]).logits[0]
            places = [p for p in range(1, length) if batch.labels[row, p] != IGNORED]
            wanted += [(row, int(batch.labels[row, p]), logits[p - 1]) for p in places]
    assert said.owner.tolist() == [row for row, _, _ in wanted]
    assert said.labels.tolist() == [label for _, label, _ in wanted]
    assert torch.allclose(said.logits, torch.stack([logits for _, _, logits in wanted]), atol=1e-4)


def test_predictions_of_classes_are_the_logits() -> None:
    module, data = tiny_classifier(), random_labelled(7)
    said = data.batch(slice(None)).predictions(module)
    assert torch.equal(said.logits, module(data.inputs))
    assert torch.equal(said.labels, data.labels)
    assert said.owner.tolist() == list(range(7))


def test_a_classifier_of_transformers_hands_out_its_logits_in_a_record() -> None:
    class Wrapped(nn.Module):
        def forward(self, inputs):
            return SimpleNamespace(logits=inputs[:, :4])

    batch = random_labelled(5).batch(slice(None))
    assert torch.equal(batch.logits(Wrapped()), batch.inputs[:, :4])


def test_predictions_stay_in_the_graph() -> None:
    module = tiny_llama()
    random_tokens(4).batch(slice(None)).predictions(module).loss.backward()
    assert all(p.grad is not None for p in module.parameters())


def test_real_is_false_on_padding_alone() -> None:
    data = random_tokens(8, seed=1)
    batch = data.batch(slice(None))
    assert batch.real.sum(dim=1).tolist() == data.lengths.tolist()
    whole = data.batch(slice(0, 1))
    assert whole.mask is None
    assert whole.real.all()


@KINDS
@pytest.mark.parametrize("size", [1, 4, 11, 50])
def test_ordered_batches_are_every_example_once_in_order(kind: str, size: int) -> None:
    data = random_data(kind, 11, 0)
    labels = [row for batch in ordered_batches(data, size) for row in batch.labels.tolist()]
    if kind == "classifier":
        assert labels == data.labels.tolist()
    batches = list(ordered_batches(data, size))
    assert sum(batch.samples for batch in batches) == 11
    assert max(batch.samples for batch in batches) <= size


def test_shuffled_batches_of_a_classifier_are_permutations() -> None:
    data = random_labelled(12)
    batches = shuffled_batches(data, 4, torch.Generator().manual_seed(0))
    epoch = torch.cat([next(batches).inputs for _ in range(3)])
    assert sorted(epoch[:, 0].tolist()) == sorted(data.inputs[:, 0].tolist())
    assert epoch[:, 0].tolist() != data.inputs[:, 0].tolist()
