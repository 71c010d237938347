from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterator

import pytest
import torch
from tiny_models import random_tokens, same_bits, tiny_llama, weights_of
from torch import Tensor, nn
from torch.nn import functional

from redteam.engine.batches import IGNORED, Batch, TokenSet, shuffled_batches
from redteam.engine.cost import Ledger, Spent, training_flops
from redteam.engine.loop import Diverged, fine_tune, mean_loss, train
from redteam.engine.optimizers import Tuning, rate_at
from redteam.engine.seeding import seeded


def run(module: nn.Module, tuning: Tuning, **options) -> list[Spent]:
    data = random_tokens(20, seed=1)
    ledger = Ledger(parameters=sum(p.numel() for p in module.parameters()))
    return list(fine_tune(module, shuffled_batches(data, 6, seeded(3, "order")), tuning, ledger, **options))


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("clip", [None, 0.5])
@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_equals_a_bare_pytorch_loop_bit_for_bit(optimizer, clip, schedule):
    tuning = Tuning(optimizer=optimizer, learning_rate=3e-3, schedule=schedule, steps=7, clip=clip)
    module, bare = tiny_llama(), tiny_llama()
    run(module, tuning)

    kinds = {
        "adamw": lambda p: torch.optim.AdamW(p, lr=3e-3, betas=(0.9, 0.999), weight_decay=0.0, fused=True),
        "sgd": lambda p: torch.optim.SGD(p, lr=3e-3, momentum=0.9, fused=True),
    }
    steps = kinds[optimizer](bare.parameters())
    batches = shuffled_batches(random_tokens(20, seed=1), 6, seeded(3, "order"))
    for step in range(7):
        batch = next(batches)
        logits = bare(input_ids=batch.input_ids, attention_mask=batch.mask, use_cache=False).logits
        loss = functional.cross_entropy(
            logits[:, :-1].reshape(-1, logits.shape[-1]), batch.labels[:, 1:].reshape(-1), ignore_index=-100
        )
        steps.zero_grad()
        loss.backward()
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(bare.parameters(), clip)
        steps.param_groups[0]["lr"] = rate_at(step, tuning)
        steps.step()

    assert same_bits(weights_of(module), weights_of(bare))
    assert not same_bits(weights_of(module), weights_of(tiny_llama()))  # it did train


def test_loss_is_the_models_own():
    """transformers computes the same mean over labelled tokens from `labels=`; only the order of sums may differ."""
    module, data = tiny_llama(), random_tokens(16, seed=2)
    batch = data.batch(slice(None))
    assert (batch.labels == IGNORED).any()
    ours = mean_loss(module, batch)
    theirs = module(input_ids=batch.input_ids, attention_mask=batch.mask, labels=batch.labels).loss
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-6)


def test_loss_does_not_see_padding():
    """Mean over all labelled tokens of the batch = token-weighted mean over unpadded sequences taken one by one."""
    module, data = tiny_llama(), random_tokens(9, seed=4)
    total = tokens = 0.0
    for row in range(len(data)):
        alone = data.batch(slice(row, row + 1))
        assert alone.mask is None
        count = int((alone.labels[:, 1:] != IGNORED).sum())
        total += mean_loss(module, alone).item() * count
        tokens += count
    assert mean_loss(module, data.batch(slice(None))).item() == pytest.approx(total / tokens, rel=1e-5)


@pytest.mark.parametrize("stop", [1, 3])
def test_closing_early_leaves_no_gradients_and_the_weights_of_that_step(stop):
    tuning = Tuning(learning_rate=1e-2, steps=10)
    module, shorter = tiny_llama(), tiny_llama()
    ledger = Ledger(parameters=1)
    running = fine_tune(module, shuffled_batches(random_tokens(20, seed=1), 6, seeded(3, "order")), tuning, ledger)
    for _ in range(stop):
        next(running)
    running.close()
    assert all(p.grad is None for p in module.parameters())
    run(shorter, Tuning(learning_rate=1e-2, steps=stop))
    assert same_bits(weights_of(module), weights_of(shorter))
    assert ledger.spent.steps == stop


def test_gradients_are_cleared_when_the_loss_raises():
    module = tiny_llama()

    def broken(live: nn.Module, batch: Batch) -> Tensor:
        mean_loss(live, batch).backward()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(module, Tuning(learning_rate=1e-2, steps=2), loss=broken)
    assert all(p.grad is None for p in module.parameters())


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_diverged_is_raised_before_the_step_that_would_use_the_loss(bad):
    module, twin = tiny_llama(), tiny_llama()
    calls = itertools.count()

    def poisoned(live: nn.Module, batch: Batch) -> Tensor:
        value = mean_loss(live, batch)
        return value * bad if next(calls) == 3 else value

    ledger = Ledger(parameters=1)
    data = random_tokens(20, seed=1)
    tuning = Tuning(learning_rate=1e-2, steps=10)
    with pytest.raises(Diverged, match="step 3"):
        list(fine_tune(module, shuffled_batches(data, 6, seeded(3, "order")), tuning, ledger, loss=poisoned))
    run(twin, Tuning(learning_rate=1e-2, steps=3))
    assert same_bits(weights_of(module), weights_of(twin))
    assert ledger.spent.steps == len(ledger.losses) == 3
    assert all(math.isfinite(loss) for loss in ledger.losses)
    assert all(p.grad is None for p in module.parameters())


def test_diverged_when_the_weights_themselves_blow_up():
    with pytest.raises(Diverged):
        run(tiny_llama(), Tuning(optimizer="sgd", learning_rate=1e30, steps=10))


def test_only_the_named_parameters_move_and_all_of_them():
    module, before = tiny_llama(), weights_of(tiny_llama())
    run(module, Tuning(learning_rate=1e-2, steps=3, clip=1.0), only=lambda name: "layers.1.mlp" in name)
    moved = {name for name, tensor in weights_of(module).items() if not torch.equal(tensor, before[name])}
    assert moved == {f"model.layers.1.mlp.{part}_proj.weight" for part in ("gate", "up", "down")}


def test_ledger_counts_what_the_batches_hold():
    module, seen = tiny_llama(), []
    data = random_tokens(20, seed=1)

    def watched() -> Iterator[Batch]:
        for batch in shuffled_batches(data, 6, seeded(0, "order")):
            seen.append(batch)
            yield batch

    parameters = sum(p.numel() for p in module.parameters())
    ledger = Ledger(parameters=parameters)
    spent = list(fine_tune(module, watched(), Tuning(learning_rate=1e-3, steps=5), ledger))
    assert len(seen) == 5  # no batch is drawn in vain
    for step, cost in enumerate(spent, 1):
        batches = seen[:step]
        tokens = sum(int(b.mask.sum() if b.mask is not None else torch.tensor(b.input_ids.numel())) for b in batches)
        assert cost.steps == step
        assert cost.samples == sum(len(b.input_ids) for b in batches) == 6 * step
        assert cost.tokens == tokens
        assert cost.flops == pytest.approx(6 * parameters * tokens, rel=1e-12)
    assert ledger.spent == spent[-1]
    assert ledger.losses[0] == mean_loss(tiny_llama(), seen[0]).item()
    assert len(ledger.losses) == 5
    assert ledger.seconds > 0


def test_flops_rule():
    assert training_flops(7_000_000_000, 1000) == 6 * 7e9 * 1000


def test_train_runs_to_the_end_and_restores_evaluation_mode():
    module, heard = tiny_llama(), []
    data: TokenSet = random_tokens(20, seed=1)
    modes = []

    def watching(live: nn.Module, batch: Batch) -> Tensor:
        modes.append(live.training)
        return mean_loss(live, batch)

    ledger = train(
        module,
        shuffled_batches(data, 6, seeded(3, "order")),
        Tuning(learning_rate=1e-2, steps=4),
        loss=watching,
        on_step=heard.append,
    )
    assert heard == [1, 2, 3, 4]
    assert modes == [True] * 4
    assert not module.training
    assert ledger.spent.steps == 4
    assert ledger.parameters == sum(p.numel() for p in module.parameters())


def test_train_learns_a_small_set_by_heart():
    module, data = tiny_llama(), random_tokens(4, seed=5)
    ledger = train(
        module,
        shuffled_batches(data, 4, seeded(0)),
        Tuning(learning_rate=1e-2, steps=60, schedule="one-cycle", clip=1.0),
    )
    assert ledger.losses[-1] < 0.05 < 1 < ledger.losses[0]


def test_training_leaves_the_frozen_twin_alone():
    """A deep copy shares nothing with what is trained."""
    module = tiny_llama()
    twin = copy.deepcopy(module)
    run(module, Tuning(learning_rate=1e-2, steps=2))
    assert same_bits(weights_of(twin), weights_of(tiny_llama()))
