"""Gradient ascent, gradient difference, NPO and rerouting: their losses against plain loops, and what they claim."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import pytest
import torch
from tiny_models import random_tokens, same_bits, tiny_llama, weights_of
from tiny_tasks import CLASSES, FEATURES, moved, random_labelled, tiny_classifier, tiny_task
from torch import nn

from redteam.engine.activations import hidden_states
from redteam.engine.batches import Batch, LabelledSet, TokenSet
from redteam.engine.loop import Diverged
from redteam.engine.optimizers import Tuning
from redteam.errors import InputError
from redteam.unlearning.graddiff import GradDiff
from redteam.unlearning.gradient_ascent import GradientAscent
from redteam.unlearning.npo import NPO, log_likelihoods, negative_preference
from redteam.unlearning.paired import capped_loss, train_in_pairs
from redteam.unlearning.rerouting import RepresentationRerouting, alignment, distance

ALL = slice(None)
LAYERS = ("model.layers.0", "model.layers.1")


def padded(data: TokenSet, extra: int) -> Batch:
    """The whole set with `extra` more columns of padding, of another token than usual."""
    wider = TokenSet(
        nn.functional.pad(data.input_ids, (0, extra), value=3),
        nn.functional.pad(data.labels, (0, extra), value=-100),
        data.lengths,
    )
    whole = wider.batch(ALL)
    mask = (torch.arange(wider.input_ids.shape[1]) < data.lengths[:, None]).long()
    return dataclasses.replace(whole, input_ids=wider.input_ids, labels=wider.labels, mask=mask)


@torch.no_grad()
def sequence_log_likelihood(module: nn.Module, ids: Sequence[int], labels: Sequence[int]) -> float:
    """One unpadded sequence, one token at a time."""
    logits = module(input_ids=torch.tensor([list(ids)])).logits[0].double()
    total = 0.0
    for position in range(1, len(ids)):
        if labels[position] != -100:
            scores = logits[position - 1]
            total += float(scores[labels[position]] - scores.exp().sum().log())
    return total


def forget_loss(module: nn.Module, data) -> float:
    with torch.no_grad():
        return float(data.batch(ALL).loss(module))


# The losses.


@pytest.mark.parametrize("extra", [0, 5])
def test_log_likelihoods_are_sums_over_each_sequence_whatever_its_padding(extra: int) -> None:
    module, data = tiny_llama(), random_tokens(9, seed=4)
    got = log_likelihoods(padded(data, extra).predictions(module))
    rows = zip(data.input_ids.tolist(), data.labels.tolist(), data.lengths.tolist(), strict=True)
    wanted = [sequence_log_likelihood(module, ids[:n], labels[:n]) for ids, labels, n in rows]
    assert got.tolist() == pytest.approx(wanted, rel=1e-4)


def test_log_likelihoods_leave_out_sequences_without_a_label() -> None:
    data = random_tokens(4, seed=4)
    data.labels[1] = -100
    whole = log_likelihoods(data.batch(ALL).predictions(tiny_llama()))
    rest = log_likelihoods(data.take(torch.tensor([0, 2, 3])).batch(ALL).predictions(tiny_llama()))
    assert torch.allclose(whole, rest, atol=1e-5)


@pytest.mark.parametrize("beta", [0.05, 0.1, 1.0])
def test_npo_is_the_papers_formula(beta: float) -> None:
    now, before = [-3.0, -0.5, -8.0], [-1.0, -0.7, -0.1]
    terms = [math.log(1 + (math.exp(a) / math.exp(b)) ** beta) for a, b in zip(now, before, strict=True)]
    wanted = 2 / beta * sum(terms) / len(terms)
    assert negative_preference(torch.tensor(now), torch.tensor(before), beta).item() == pytest.approx(wanted, rel=1e-5)


def test_npo_starts_at_a_constant_and_stays_finite() -> None:
    same = torch.tensor([-2.0, -5.0])
    assert negative_preference(same, same, 0.1).item() == pytest.approx(20 * math.log(2))
    assert negative_preference(torch.zeros(1), torch.tensor([-1e4]), 0.1).item() == pytest.approx(2e4)
    assert negative_preference(torch.tensor([-1e4]), torch.zeros(1), 0.1).item() == 0


def test_npo_has_the_gradient_of_ascent_times_a_weight_that_fades() -> None:
    """Zhang et al., section 3: W = 2 p^beta / (p^beta + p_ref^beta), 1 at the start."""
    for after, before in ((-1.0, -1.0), (-6.0, -1.0), (-0.2, -3.0)):
        leaf = torch.tensor([after], requires_grad=True)
        negative_preference(leaf, torch.tensor([before]), 0.1).backward()
        left, right = math.exp(after) ** 0.1, math.exp(before) ** 0.1
        assert leaf.grad is not None
        assert leaf.grad.item() == pytest.approx(2 * left / (left + right), rel=1e-5)


def rerouting_oracle(now: nn.Module, before: nn.Module, data: TokenSet) -> tuple[float, float]:
    """Both terms, from transformers' hidden states of one unpadded sequence at a time."""
    cosines: list[float] = []
    moved_by: list[list[float]] = [[], []]
    norms: list[list[float]] = [[], []]
    for ids, length in zip(data.input_ids, data.lengths.tolist(), strict=True):
        states = []
        for module in (now, before):
            kept: list[torch.Tensor] = []
            handles = [
                module.get_submodule(name).register_forward_hook(lambda _m, _i, out, kept=kept: kept.append(out))
                for name in LAYERS
            ]
            with torch.no_grad():
                module(input_ids=ids[None, :length])
            for handle in handles:
                handle.remove()
            states.append([(h[0] if isinstance(h, tuple) else h)[0].double() for h in kept])
        for layer in (0, 1):
            for h, h0 in zip(states[0][layer], states[1][layer], strict=True):
                cosines.append(max(0.0, float(h @ h0) / math.sqrt(float(h @ h) * float(h0 @ h0))))
                moved_by[layer].append(math.sqrt(float((h - h0) @ (h - h0))))
                norms[layer].append(math.sqrt(float(h0 @ h0)))
    return sum(cosines) / len(cosines), sum(sum(moved_by[i]) / sum(norms[i]) for i in (0, 1)) / 2


@pytest.mark.parametrize("extra", [0, 5])
def test_rerouting_terms_are_means_over_real_tokens_and_layers(extra: int) -> None:
    now, before, data = tiny_llama(1), tiny_llama(0), random_tokens(6, seed=5)
    batch = padded(data, extra)
    with torch.no_grad():
        states, originals = hidden_states(now, batch, LAYERS), hidden_states(before, batch, LAYERS)
    cosine, moved_by = rerouting_oracle(now, before, data)
    assert 0.01 < cosine < 0.99
    assert alignment(states, originals, batch).item() == pytest.approx(cosine, rel=1e-4)
    assert distance(states, originals, batch).item() == pytest.approx(moved_by, rel=1e-4)


def test_rerouting_terms_of_known_vectors() -> None:
    batch = LabelledSet(torch.zeros(3, 2), torch.zeros(3, dtype=torch.long)).batch(ALL)
    before = {"layer": torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0]])}
    assert alignment(before, before, batch).item() == pytest.approx(1)
    assert distance(before, before, batch).item() == 0
    turned = {"layer": torch.tensor([[0.0, 5.0], [0.0, -2.0], [3.0, 4.0]])}  # cosines 0, -1 (counts as 0), 3/5
    assert alignment(turned, before, batch).item() == pytest.approx(0.2)
    wanted = (math.sqrt(26) + 4 + 4) / (1 + 2 + 3)
    assert distance(turned, before, batch).item() == pytest.approx(wanted)


def test_rerouting_starts_with_finite_gradients_where_nothing_has_moved_yet() -> None:
    batch = random_labelled(4).batch(ALL)
    leaf = torch.randn(4, 3, requires_grad=True)
    distance({"a": leaf}, {"a": leaf.detach().clone()}, batch).backward()
    assert leaf.grad is not None
    assert torch.isfinite(leaf.grad).all()


@pytest.mark.parametrize("cap", [0.5, 1.0, 2.0])
def test_the_cap_is_in_multiples_of_the_loss_of_a_uniform_guess(cap: float) -> None:
    module = nn.Linear(2, CLASSES, bias=False)
    with torch.no_grad():
        module.weight.zero_()
    batch = LabelledSet(torch.ones(5, 2), torch.arange(5) % CLASSES).batch(ALL)
    assert capped_loss(module, batch, cap).item() == pytest.approx(min(1.0, cap) * math.log(CLASSES))


def test_above_the_cap_there_is_no_gradient() -> None:
    module, batch = tiny_classifier(), random_labelled(8).batch(ALL)
    loss = float(batch.loss(module).detach())
    for cap, flat in ((0.9 * loss / math.log(CLASSES), True), (1.1 * loss / math.log(CLASSES), False)):
        module.zero_grad()
        capped_loss(module, batch, cap).backward()
        assert all(bool((p.grad == 0).all()) for p in module.parameters()) == flat


# The methods.


@pytest.mark.parametrize("kind", ["language", "classifier"])
def test_ascent_raises_the_forget_loss_at_every_step_and_ends_just_above_the_cap(kind: str) -> None:
    """Full batches and small steps, so that every step is one along the gradient of the whole."""
    task = tiny_task(kind)
    classes = CLASSES if kind == "classifier" else tiny_llama().config.vocab_size
    start = forget_loss(task.original, task.forget)
    cap = 1.5 * start
    method = GradientAscent(cap=cap / math.log(classes), learning_rate=1e-3, batch_size=99, steps=1)
    losses = [start]
    for steps in (1, 2, 4, 8, 16, 400):
        losses.append(forget_loss(dataclasses.replace(method, steps=steps).apply(task), task.forget))
        assert losses[-1] > losses[-2]
    assert cap < losses[-1] < 1.1 * cap


def test_ascent_that_begins_above_the_cap_moves_nothing() -> None:
    task = tiny_task("classifier")
    assert not moved(task.original, GradientAscent(cap=0.1).apply(task))


def test_ascent_reads_nothing_of_the_retain_set() -> None:
    made = [GradientAscent(steps=5, cap=9.0).apply(tiny_task(retain=random_tokens(24, seed=s))) for s in (2, 3)]
    assert same_bits(*(weights_of(module) for module in made))


@pytest.mark.parametrize("method", [GradDiff(), NPO()], ids=lambda method: method.name)
@pytest.mark.parametrize(("kind", "rate"), [("language", 3e-3), ("classifier", 3e-2)])
def test_forget_loss_rises_and_retain_loss_falls(method, kind: str, rate: float) -> None:
    task = tiny_task(kind)
    made = dataclasses.replace(method, steps=100, learning_rate=rate).apply(task)
    assert forget_loss(made, task.forget) > forget_loss(task.original, task.forget) + 0.2
    assert forget_loss(made, task.retain) < forget_loss(task.original, task.retain) - 0.2


def test_the_retain_term_protects() -> None:
    task = tiny_task("classifier")
    lost = [
        forget_loss(dataclasses.replace(method, steps=40, learning_rate=3e-3).apply(task), task.retain)
        for method in (GradDiff(alpha=0), GradDiff(alpha=1), NPO(alpha=0), NPO(alpha=1))
    ]
    assert lost[1] < lost[0]
    assert lost[3] < lost[2]


@pytest.mark.parametrize("kind", ["language", "classifier"])
def test_rerouting_turns_forget_states_and_holds_retain_states(kind: str) -> None:
    task = tiny_task(kind)
    names = LAYERS if kind == "language" else ("0", "2")
    made = RepresentationRerouting(steps=150, learning_rate=3e-3).apply(task)
    cosines = []
    for data in (task.forget, task.retain):
        batch = data.batch(ALL)
        with torch.no_grad():
            before, after = hidden_states(task.original, batch, names), hidden_states(made, batch, names)
        cosines.append(float(alignment(after, before, batch)))
    assert cosines[0] < 0.6
    assert cosines[1] > cosines[0] + 0.2


def test_rerouting_moves_what_the_pattern_names() -> None:
    task = tiny_task()
    made = RepresentationRerouting(layers="model.layers.1", parameters="*.down_proj.weight", steps=3).apply(task)
    assert moved(task.original, made) == {f"{name}.mlp.down_proj.weight" for name in LAYERS}


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"layers": "model.layers.9"}, "no module matches"),
        ({"parameters": "nothing"}, "no parameter matches"),
        ({"layers": "model.layers"}, "does not put out one state a token"),  # a list is never called
        ({"layers": "*.rotary_emb"}, "does not put out one state a token"),
    ],
)
def test_rerouting_says_what_a_pattern_misses(options: dict[str, str], found: str) -> None:
    with pytest.raises(InputError, match=found):
        RepresentationRerouting(**options).apply(tiny_task())


def test_rerouting_steers_images() -> None:
    """The channels and places of a feature map are one state."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, CLASSES)).eval()
    draw = torch.Generator().manual_seed(1)
    sets = [LabelledSet(torch.randn(9, 1, 4, 4, generator=draw), torch.arange(9) % CLASSES) for _ in range(2)]
    task = tiny_task("classifier", net, forget=sets[0], retain=sets[1])
    made = RepresentationRerouting(steps=5).apply(task)
    assert moved(net, made) == {"0.weight", "0.bias"}


METHODS_HERE = [GradientAscent(cap=9.0), GradDiff(), NPO(), RepresentationRerouting()]


@pytest.mark.parametrize("method", METHODS_HERE, ids=lambda method: method.name)
def test_a_loss_that_is_not_finite_ends_it(method) -> None:
    broken = tiny_classifier()
    with torch.no_grad():
        broken[0].weight[0, 0] = float("nan")
    with pytest.raises(Diverged, match="at step 0"):
        method.apply(tiny_task("classifier", broken))


@pytest.mark.parametrize("method", METHODS_HERE, ids=lambda method: method.name)
def test_padding_changes_nothing(method) -> None:
    """What stands in the padding is no part of any loss."""
    task = tiny_task()
    other = {}
    for name, data in (("forget", task.forget), ("retain", task.retain)):
        columns = torch.arange(data.input_ids.shape[1])
        ids = torch.where(columns < data.lengths[:, None], data.input_ids, 5)
        assert not torch.equal(ids, data.input_ids)
        other[name] = TokenSet(ids, data.labels, data.lengths)
    quick = dataclasses.replace(method, steps=6)
    left, right = weights_of(quick.apply(task)), weights_of(quick.apply(dataclasses.replace(task, **other)))
    assert all(torch.allclose(left[name], right[name], atol=1e-6) for name in left)


def test_training_in_pairs_draws_dropout_from_the_seed() -> None:
    """And ends in evaluation mode, the global generator where it was."""
    net = nn.Sequential(nn.Linear(FEATURES, 12), nn.Dropout(0.5), nn.Linear(12, CLASSES)).eval()
    task = tiny_task("classifier", net)
    start = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    outcomes = []
    for seed in (0, 0, 1):
        net.load_state_dict(start)
        torch.manual_seed(100 + len(outcomes))
        state = torch.random.get_rng_state()
        given = dataclasses.replace(task, seed=seed)
        train_in_pairs(
            net, given, lambda m, f, r: f.loss(m) + r.loss(m), Tuning(learning_rate=0.1, steps=3), 8, name="x"
        )
        assert torch.equal(torch.random.get_rng_state(), state)
        assert not any(part.training for part in net.modules())
        outcomes.append(weights_of(net))
    assert same_bits(outcomes[0], outcomes[1])
    assert not same_bits(outcomes[0], outcomes[2])


def test_training_in_pairs_stops_when_told_and_says_that_it_is_done() -> None:
    task, heard, asked = tiny_task("classifier"), [], []
    task = dataclasses.replace(task, progress=lambda *what: heard.append(what))

    def third(done: int) -> bool:
        asked.append(done)
        return done == 3

    tuning = Tuning(learning_rate=0.1, steps=9)
    train_in_pairs(tiny_classifier(), task, lambda m, f, r: f.loss(m), tuning, 8, name="x", stop=third)
    assert asked == [1, 2, 3]
    assert heard == [("unlearning (x)", done, 9) for done in (1, 2, 3, 9)]
