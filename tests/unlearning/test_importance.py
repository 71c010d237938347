"""Importances and dampening factors by themselves: which batches count, and what the formula says."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import random_tokens
from tiny_tasks import random_data, tiny_classifier, tiny_model_of, tiny_task
from torch import Tensor

from redteam.engine.batches import LabelledSet, ordered_batches
from redteam.engine.loop import Diverged
from redteam.unlearning.importance import Reading, damping_factors, importance, importances, single_samples

KINDS = ("language", "classifier")

READING = Reading(definition="batch", batch_size=8, full="all", evaluation=True, short_batch=True)


# Factors.

positive = st.floats(1e-6, 1e6)


@given(st.lists(st.tuples(positive, positive), min_size=1, max_size=6), st.floats(0.01, 100), st.floats(0, 10))
def test_factors_are_what_the_formula_says_and_never_above_one(pairs, alpha: float, dampening: float) -> None:
    forget, full = (torch.tensor(part, dtype=torch.float64) for part in zip(*pairs, strict=True))
    got = damping_factors({"w": forget}, {"w": full}, alpha=alpha, dampening=dampening)["w"].tolist()
    for factor, (wrong, right) in zip(got, pairs, strict=True):
        assert 0 <= factor <= 1
        assert factor == pytest.approx(min(1, dampening * right / wrong) if wrong > alpha * right else 1)


def test_weights_that_matter_to_neither_set_are_never_selected() -> None:
    zero, one = torch.zeros(1), torch.ones(1)
    for alpha in (1e-6, 1.0, 1e6):
        assert damping_factors({"w": zero}, {"w": zero}, alpha=alpha, dampening=1)["w"].item() == 1
        assert damping_factors({"w": zero}, {"w": one}, alpha=alpha, dampening=1)["w"].item() == 1
        assert damping_factors({"w": one}, {"w": zero}, alpha=alpha, dampening=1)["w"].item() == 0


# Batches.


@pytest.mark.parametrize("kind", KINDS)
def test_by_sample_the_batch_size_does_not_matter_and_by_batch_it_does(kind: str) -> None:
    module, data = tiny_model_of(kind), random_data(kind, 12, 5)

    def read(size: int, definition: str) -> Tensor:
        found = importance(module, ordered_batches(data, size), definition=definition)
        return torch.cat([value.flatten() for value in found.values()])

    reference = read(1, "sample")
    for size in (5, 12):
        torch.testing.assert_close(read(size, "sample"), reference, rtol=1e-3, atol=1e-6 * float(reference.max()))
        assert float(read(size, "batch").sum()) < 0.8 * float(reference.sum())
    torch.testing.assert_close(read(1, "batch"), reference, rtol=1e-3, atol=1e-6 * float(reference.max()))


def test_a_sample_is_cut_to_its_own_length() -> None:
    data = random_tokens(6, seed=2)
    for row, one in enumerate(single_samples(data.batch(slice(0, 6)))):
        assert one.mask is None
        assert one.input_ids.tolist() == [data.input_ids[row, : data.lengths[row]].tolist()]
        assert one.tokens == data.lengths[row]


@pytest.mark.parametrize("definition", ["batch", "sample", "norm"])
@pytest.mark.parametrize("kind", KINDS)
def test_all_is_the_retain_batches_followed_by_the_forget_batches(kind: str, definition: str) -> None:
    task = tiny_task(kind)
    forget, full = importances(task, dataclasses.replace(READING, definition=definition))
    in_order = [*ordered_batches(task.retain, 8), *ordered_batches(task.forget, 8)]
    outside = importance(task.original, in_order, definition=definition)
    alone = importance(task.original, ordered_batches(task.forget, 8), definition=definition)
    for name in forget:
        torch.testing.assert_close(full[name], outside[name], rtol=1e-5, atol=1e-12)
        assert torch.equal(forget[name], alone[name])


def test_a_short_batch_counts_only_where_it_is_told_to() -> None:
    """20 and 24 examples in batches of 8: the forget set ends in a batch of 4."""
    task = tiny_task("classifier")
    counted, _ = importances(task, dataclasses.replace(READING, full="retain"))
    left_out, _ = importances(task, dataclasses.replace(READING, full="retain", short_batch=False))
    without = importance(task.original, ordered_batches(task.forget.take(slice(0, 16)), 8))
    assert all(torch.equal(left_out[name], without[name]) for name in without)
    assert any(not torch.equal(left_out[name], counted[name]) for name in without)
    few = dataclasses.replace(READING, batch_size=100, short_batch=False)
    assert len(few.batches(task.forget)) == 1


def test_a_loss_that_is_not_finite_is_said_and_the_mode_is_back() -> None:
    module = tiny_classifier().train()
    broken = LabelledSet(torch.full((4, 6), torch.nan), torch.zeros(4, dtype=torch.int64))
    with pytest.raises(Diverged, match="loss is nan at step 0"):
        importance(module, ordered_batches(broken, 4))
    assert module.training
    with pytest.raises(ValueError, match="at least one batch"):
        importance(module, [])
