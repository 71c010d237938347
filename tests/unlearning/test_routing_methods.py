from __future__ import annotations

import dataclasses

import pytest
import torch
from tiny_blocks import outputs
from tiny_models import same_bits, weights_of
from tiny_tasks import tiny_model_of, tiny_task

from redteam.engine.batches import Batch
from redteam.engine.blocks import ablate
from redteam.engine.seeding import derive_seed
from redteam.errors import InputError
from redteam.unlearning.rmu import RMU
from redteam.unlearning.routing import Routing, penalty
from redteam.unlearning.routing_rmu import RoutingRMU
from redteam.unlearning.sgtm import SGTM, Turns, silent_slices, slice_entries

every_kind = pytest.mark.parametrize("kind", ["language", "classifier"])


def with_labels(kind: str, labelled: torch.Tensor | None = None, **tuning):
    task = tiny_task(kind)
    training = task.training
    mask = torch.zeros(len(training.data), dtype=torch.bool) if labelled is None else labelled
    training = dataclasses.replace(training, labelled=mask, tuning=dataclasses.replace(training.tuning, **tuning))
    return dataclasses.replace(task, training=training, forget=training.forget)


@every_kind
def test_routing_without_labels_and_extra_units_is_plain_training_bit_for_bit(kind) -> None:
    task = with_labels(kind)
    made = Routing(extra=0, l1=0.0, coherence_steps=0).apply(task)
    plain = task.training.fit(task.training.data, seed=derive_seed(task.seed, "routing"))
    assert same_bits(weights_of(made), weights_of(plain))
    assert not same_bits(weights_of(made), weights_of(task.training.new(derive_seed(task.seed, "routing"))))


@every_kind
def test_sgtm_without_labels_and_a_slice_is_plain_training_bit_for_bit(kind) -> None:
    task = with_labels(kind)
    made = SGTM(units=0).apply(task)
    plain = task.training.fit(task.training.data, seed=derive_seed(task.seed, "sgtm"))
    assert same_bits(weights_of(made), weights_of(plain))


@every_kind
def test_labels_change_the_routed_model_and_a_multiplier_of_one_does_not(kind) -> None:
    """With every multiplier 1 the labels have no way in."""
    labelled = tiny_task(kind).training.labelled
    options = {"extra": 3, "coherence_steps": 0}
    none, some = with_labels(kind), with_labels(kind, labelled)
    plain = weights_of(Routing(**options).apply(none))
    assert not same_bits(plain, weights_of(Routing(**options).apply(some)))
    assert same_bits(plain, weights_of(Routing(original_multiplier=1.0, **options).apply(some)))


def test_routing_the_loss_positions_is_another_thing_and_wrong_words_are_refused() -> None:
    task = tiny_task("language")
    options = {"extra": 3, "coherence_steps": 0}
    first, second = (Routing(positions=p, **options).apply(task) for p in ("sequence", "loss"))
    assert not same_bits(weights_of(first), weights_of(second))
    for method in (Routing(positions="word"), SGTM(place="nowhere"), SGTM(update="never"), SGTM(retain_share=2.0)):
        with pytest.raises(InputError):
            method.apply(task)


def test_the_penalty_is_a_mean_over_real_tokens() -> None:
    ids = torch.zeros(2, 3, dtype=torch.int64)
    batch = Batch(ids, ids, torch.tensor([[1, 1, 1], [1, 0, 0]]), 4)
    values = torch.full((2, 3, 5), -2.0)
    values[1, 1:] = 1e6  # padding
    assert penalty(batch, [values, 2 * values]).item() == pytest.approx(5 * 2 + 5 * 4)


@every_kind
@pytest.mark.parametrize("update", ["split", "joint"])
def test_a_forget_step_moves_the_slice_alone_and_momentum_moves_the_rest_if_joint(kind, update) -> None:
    """Driven step by step through the same hook that training uses."""
    from redteam.engine.cost import Ledger
    from redteam.engine.loop import fine_tune

    labelled = tiny_task(kind).training.labelled
    training = with_labels(kind, labelled, steps=12).training
    method = SGTM(units=2, update=update, retain_share=0.5)
    module = training.new(0)
    slices = method._reserve(module, training, 0)
    turns = Turns(training, 0.5, 0)
    entries = slice_entries(module, slices)
    kept, seen = [], set()
    before = weights_of(module)
    loss = lambda live, batch: method._loss(live, batch, slices, turns)  # noqa: E731
    around = method._around(module, slices, turns)
    for _ in fine_tune(module, turns, training.tuning, Ledger(parameters=1), loss=loss, around=around):
        now = weights_of(module)
        inside = any(bool((now[n] != before[n])[m].any()) for n, m in entries.items())
        outside = any(bool((now[n] != before[n])[~entries.get(n, torch.zeros_like(now[n]).bool())].any()) for n in now)
        if turns.current == "forget":
            assert inside
            kept.append(not outside)
        else:
            assert outside
            if update == "split":
                assert inside == (turns.current == "default")
        seen.add(turns.current)
        before = now
    assert seen == {"forget", "retain", "default"}
    assert all(kept) if update == "split" else not all(kept)


@every_kind
@pytest.mark.parametrize("heads", [0, 1])
def test_a_silent_slice_computes_what_the_ablated_model_does(kind, heads) -> None:
    module = tiny_model_of(kind)
    slices = SGTM(units=2, heads=heads)._reserve(module, tiny_task(kind).training, 0)
    assert len(slices) == 1 + (heads if kind == "language" else 0)
    with silent_slices(module, slices):
        silent = outputs(module)
    assert not torch.allclose(silent, outputs(module))
    for blocks, count in slices:
        ablate(module, blocks, count)
    assert torch.allclose(silent, outputs(module), atol=1e-5)


@every_kind
def test_inside_the_slice_is_zero_at_the_end(kind) -> None:
    task = tiny_task(kind)
    method = SGTM(units=2, heads=1, place="inside")
    made = method.apply(task)
    entries = slice_entries(made, method._reserve(made, task.training, 0))
    assert entries
    for name, marked in entries.items():
        assert not made.get_parameter(name)[marked].any()
    with pytest.raises(InputError, match="are to be reserved"):
        SGTM(units=99, place="inside").apply(task)


def test_turns_divide_the_steps_as_the_examples_are() -> None:
    labelled = tiny_task("language").training.labelled  # 20 of 44
    training = with_labels("language", labelled, steps=44).training
    kinds = Turns(training, 0.25, 0).kinds
    assert [kinds.count(kind) for kind in ("forget", "retain", "default")] == [20, 6, 18]


@every_kind
def test_no_unlabelled_example_is_in_a_forget_batch_and_no_labelled_one_in_another(kind) -> None:
    task = with_labels(kind, tiny_task(kind).training.labelled, steps=20)
    turns = Turns(task.training, 0.5, 0)
    name = "input_ids" if kind == "language" else "inputs"
    rows = {turn: set() for turn in ("forget", "rest")}
    for batch in turns:
        turn = "forget" if turns.current == "forget" else "rest"
        values = getattr(batch, name)
        rows[turn] |= {tuple(v for v in row if v != 28) for row in values.tolist()}
    known = {tuple(v for v in row if v != 28) for row in getattr(task.training.forget, name).tolist()}
    assert rows["forget"] <= known
    assert not rows["rest"] & known


@every_kind
def test_routing_rmu_is_rmu_on_the_routed_model(kind) -> None:
    task = tiny_task(kind)
    made = RoutingRMU(extra=3, steps=4).apply(task)
    routed = Routing(extra=3).apply(task)
    assert same_bits(weights_of(made), weights_of(RMU(steps=4).apply(dataclasses.replace(task, original=routed))))
    unlabelled = with_labels(kind)
    assert same_bits(weights_of(RoutingRMU().apply(unlabelled)), weights_of(Routing().apply(unlabelled)))
