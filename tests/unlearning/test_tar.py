"""TAR and its random mapping: an adversary leaves nothing behind, and the gradients are what they should be."""

from __future__ import annotations

import copy
import dataclasses
import math

import pytest
import torch
from tiny_models import random_tokens, same_bits, tiny_llama, weights_of
from tiny_tasks import hooks_of, moved, random_labelled, tiny_classifier, tiny_task
from torch import nn
from torch.nn import functional

from redteam.engine.batches import Batch, LabelledSet, TokenSet, shuffled_batches
from redteam.engine.loop import Diverged
from redteam.engine.seeding import seeded
from redteam.errors import InputError
from redteam.unlearning import tar
from redteam.unlearning.random_mapping import mapping_loss, random_vectors
from redteam.unlearning.tar import TAR, divided, growth, mean_distance, negative_entropy, observed_layers

KINDS = ("language", "classifier")
QUICK = TAR(mapping_steps=2, outer_steps=2, inner_steps=4, every=2, batch_size=8, inner_batch_size=4)


def adversary_of(method: TAR, task):
    """The task's two halves, and batches of an adversary."""
    shown, held_out = divided(task.forget, 0)
    return shuffled_batches(shown, method.inner_batch_size, seeded(3)), held_out.batch(slice(None))


class Noisy(nn.Module):
    """A classifier with dropout, whose running statistics and global generator move in training."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 4)
        self.drop = nn.Dropout(0.5)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.last(self.drop(self.norm(self.first(inputs)).relu()))


@pytest.mark.parametrize("build", [tiny_llama, tiny_classifier, Noisy])
def test_an_adversary_leaves_the_module_as_it_was(build) -> None:
    module = build().eval()
    task = tiny_task(
        "language" if build is tiny_llama else "classifier",
        original=copy.deepcopy(tiny_classifier()) if build is Noisy else module,
    )
    data, held_out = adversary_of(QUICK, task)
    before, state = weights_of(module), torch.random.get_rng_state()
    first = QUICK.resistance_gradient(module, data, held_out, 1e-2, seed=0)
    assert same_bits(before, weights_of(module))
    assert torch.equal(state, torch.random.get_rng_state())
    assert not module.training
    assert hooks_of(module) == 0
    assert all(p.grad is None and p.requires_grad for p in module.parameters())
    # No moments of the optimizer are left either: the same adversary again does the same.
    data, held_out = adversary_of(QUICK, task)
    assert same_bits(first, QUICK.resistance_gradient(module, data, held_out, 1e-2, seed=0))
    assert any(bool(g.any()) for g in first.values())


@pytest.mark.parametrize("kind", KINDS)
def test_the_resistance_gradient_is_that_of_a_naive_adversary(kind: str) -> None:
    """Against an adversary written out: a copy, its own AdamW, -H differentiated at the attacked weights."""
    method, task = dataclasses.replace(QUICK, inner_steps=5), tiny_task(kind)
    data, held_out = adversary_of(method, task)
    got = method.resistance_gradient(copy.deepcopy(task.original), data, held_out, 1e-2, seed=0)

    data, _ = adversary_of(method, task)
    attacked = copy.deepcopy(task.original)
    optimizer = torch.optim.AdamW(attacked.parameters(), lr=1e-2, weight_decay=0.0)
    wanted = {name: torch.zeros_like(p) for name, p in attacked.named_parameters()}
    for k in range(5):
        optimizer.zero_grad()
        next(data).loss(attacked).backward()
        optimizer.step()
        if k in (0, 2, 4):  # every second, counted back from the last
            optimizer.zero_grad()
            chances = held_out.predictions(attacked).logits.softmax(dim=-1)
            entropy = -(chances * chances.log()).sum(dim=-1).mean()
            (4.0 * math.exp(4 * (k - 4) / 5) * -entropy).backward()
            for name, parameter in attacked.named_parameters():
                wanted[name] += parameter.grad
    for name, gradient in wanted.items():
        assert torch.allclose(got[name], gradient, rtol=1e-3, atol=1e-5), name


@pytest.mark.parametrize("kind", KINDS)
def test_an_outer_step_goes_along_the_sum_of_both_gradients(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With plain descent in AdamW's place, one step of one outer iteration is minus the naive gradient."""
    monkeypatch.setattr(tar, "build_optimizer", lambda ps, _: torch.optim.SGD(ps, lr=1.0))
    monkeypatch.setattr(tar, "rate_at", lambda *_: 1.0)
    method, task = dataclasses.replace(QUICK, mapping_steps=0, outer_steps=1, clip=1e9), tiny_task(kind)
    made = method.apply(task)
    shown, held_out = divided(task.forget, 0)
    rate, data = method.adversary(shown, task.retain, seeded(0, "tar", "adversaries"))
    measured = next(shuffled_batches(held_out, 8, seeded(0, "tar", "held out")))
    kept = next(shuffled_batches(task.retain, 8, seeded(0, "tar", "retain")))
    naive = copy.deepcopy(task.original)
    resistance = method.resistance_gradient(naive, data, measured, rate, seed=1)
    kept.loss(naive).backward()  # at theta_0 all distances are zero, and so is their gradient
    for (name, parameter), after in zip(naive.named_parameters(), made.parameters(), strict=True):
        wanted = parameter - parameter.grad - resistance[name]
        assert torch.allclose(after, wanted, rtol=1e-4, atol=1e-5), name


def test_the_weights_grow_to_one_and_are_the_authors_at_64_steps() -> None:
    for steps in (1, 3, 16, 64):
        assert growth(steps - 1, steps) == 1.0
    assert TAR().resistance_weight * growth(63, 64) == 4.0
    for k in (0, 3, 31, 62):
        assert 4.0 * growth(k, 64) == pytest.approx(4.0 * math.exp(0.0625 * (k - 63)))


@pytest.mark.parametrize("kind", KINDS)
def test_uniform_logits_have_the_entropy_of_all_classes(kind: str) -> None:
    task = tiny_task(kind)
    module = copy.deepcopy(task.original)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
    batch = task.forget.batch(slice(0, 5))
    classes = batch.predictions(module).logits.shape[1]
    assert negative_entropy(module, batch).item() == pytest.approx(-math.log(classes), rel=1e-5)


def widened(batch: Batch, columns: int) -> Batch:
    """The batch with more padding on the right."""
    mask = torch.ones_like(batch.input_ids) if batch.mask is None else batch.mask
    return Batch(
        functional.pad(batch.input_ids, (0, columns), value=5),
        functional.pad(batch.labels, (0, columns), value=-100),
        functional.pad(mask, (0, columns)),
        batch.tokens,
    )


@pytest.mark.parametrize("columns", [1, 6])
def test_padding_counts_in_no_loss(columns: int) -> None:
    module, other = tiny_llama(), tiny_llama(1)
    batch = random_tokens(6, seed=3).batch(slice(None))
    wide = widened(batch, columns)
    layers = observed_layers(module)
    for value in (
        negative_entropy,
        lambda m, b: TAR().retain_loss(m, other, b, layers),
        lambda m, b: mapping_of(m, b, layers),
    ):
        assert value(module, wide).item() == pytest.approx(value(module, batch).item(), rel=1e-4)


def mapping_of(module: nn.Module, batch, layers: tuple[str, ...]) -> torch.Tensor:
    states = tar.hidden_states(module, batch, layers)
    return mapping_loss(states, batch, random_vectors(module, batch, states, 0))


def test_mapping_loss_in_closed_form() -> None:
    """Zero along either sign of the token's vector, one at a right angle to it; unequal tokens have unequal vectors."""
    data = TokenSet.from_sequences([[1, 2], [3]], [1, 0], pad=0)
    batch = data.batch(slice(None))
    vectors = {"layer": torch.eye(4)}
    along = torch.eye(4)[batch.input_ids]
    along[0, 1] *= -3
    assert mapping_loss({"layer": along}, batch, vectors).item() == pytest.approx(0, abs=1e-6)
    across = along.roll(1, dims=-1)
    assert mapping_loss({"layer": across}, batch, vectors).item() == pytest.approx(1)
    samples = LabelledSet(torch.zeros(3, 2), torch.tensor([0, 1, 2])).batch(slice(None))
    states = torch.tensor([[2.0, 0], [-1, 0], [0, 5]])
    loss = mapping_loss({"layer": states}, samples, {"layer": torch.tensor([[1.0, 0]])})
    assert loss.item() == pytest.approx(1 / 3)  # all samples share one vector


def test_mean_distance_is_the_norm_not_its_square() -> None:
    batch = random_labelled(2).batch(slice(None))
    zeros, threes = torch.zeros(2, 2), torch.tensor([[3.0, 4.0], [0.0, 1.0]])
    assert mean_distance({"a": threes, "b": zeros}, {"a": zeros, "b": zeros}, batch).item() == pytest.approx(1.5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [2, 3, 20])
def test_what_trains_an_adversary_never_measures_it(kind: str, count: int) -> None:
    forget = tiny_task(kind).forget
    numbered = forget.take(torch.arange(count))
    tag = numbered.lengths if kind == "language" else numbered.labels
    tag.copy_(torch.arange(count))
    halves = [(half.lengths if kind == "language" else half.labels).tolist() for half in divided(numbered, 0)]
    assert sorted(halves[0] + halves[1]) == list(range(count))
    assert abs(len(halves[0]) - len(halves[1])) <= 1


def test_one_forget_example_cannot_be_divided() -> None:
    with pytest.raises(InputError, match="1 example"):
        divided(random_tokens(1), 0)


def test_adversaries_are_drawn_from_the_grid_and_switch_as_often_as_asked() -> None:
    task = tiny_task("classifier")
    method, draw = TAR(inner_steps=64, lowest_rate=1e-4, highest_rate=1e-2, switch=0.5), seeded(0)
    marked = LabelledSet(task.retain.inputs, torch.full_like(task.retain.labels, 9))
    rates, benign = [], []
    for _ in range(200):
        rate, data = method.adversary(task.forget, marked, draw)
        rates.append(round(math.log10(rate), 6))
        benign.append(sum(int(next(data).labels[0] == 9) for _ in range(64)))
    assert set(rates) == {-4.0, -3.0, -2.0}
    switched = [steps for steps in benign if steps]
    assert 70 < len(switched) < 130
    assert sum(switched) / len(switched) / 64 == pytest.approx(6 / 9, abs=0.06)  # the mean of Beta(6, 3)


def test_the_graph_does_not_grow_with_the_inner_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """No gradient is a function of the weights, so nothing of an earlier inner step is kept."""
    task, seen = tiny_task("classifier"), []
    real = torch.autograd.grad

    def watched(*args, **kwargs):
        found = real(*args, **kwargs)
        seen.extend(g.requires_grad for g in found if g is not None)
        return found

    monkeypatch.setattr(torch.autograd, "grad", watched)
    data, held_out = adversary_of(QUICK, task)
    total = QUICK.resistance_gradient(copy.deepcopy(task.original), data, held_out, 1e-2, seed=0)
    assert seen
    assert not any(seen)
    assert all(g.grad_fn is None for g in total.values())


@pytest.mark.parametrize("kind", KINDS)
def test_every_weight_may_move(kind: str) -> None:
    task = tiny_task(kind)
    assert moved(task.original, QUICK.apply(task)) == {name for name, _ in task.original.named_parameters()}


@pytest.mark.parametrize("field", ["learning_rate", "highest_rate", "mapping_learning_rate"])
def test_what_is_not_finite_diverges(field: str) -> None:
    rates = {"highest_rate": 1e38, "lowest_rate": 1e38} if field == "highest_rate" else {field: 1e38}
    with pytest.raises(Diverged):
        dataclasses.replace(QUICK, outer_steps=4, mapping_steps=4, **rates).apply(tiny_task("language"))


def test_observed_layers_are_embedding_and_decoder_layers() -> None:
    assert observed_layers(tiny_llama()) == ("model.embed_tokens", "model.layers.0", "model.layers.1")
    assert observed_layers(tiny_classifier()) == ("0", "2")
