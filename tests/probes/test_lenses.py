"""The logit lens and the tuned lens, against states read by hand and on models that hide what a lower layer says."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from tiny_models import same_bits, tiny_llama, weights_of, word_tokenizer
from tiny_tasks import hooks_of
from tiny_views import knowing_llama, near, text_capability, text_items, view_of
from torch import Tensor, nn
from torch.nn import functional
from transformers import GPT2Config, GPT2LMHeadModel

from redteam.capabilities.encode import encode_answers
from redteam.capabilities.items import Item
from redteam.capabilities.reading import encode_scoring
from redteam.capabilities.scorers.contract import item_scores
from redteam.engine.activations import UnknownLayers
from redteam.engine.batches import shuffled_batches
from redteam.engine.loop import train
from redteam.engine.optimizers import Tuning
from redteam.engine.seeding import seeded
from redteam.probes import translators
from redteam.probes.lens import Lens, head
from redteam.probes.logit_lens import LogitLens
from redteam.probes.translators import Positions, Translators, divergences, fit_translators, read_positions
from redteam.probes.tuned_lens import TunedLens

CAPABILITY = replace(text_capability(), retain=text_items(range(132, 462), many=False))
NAMES = [f"model.layers.{i}" for i in range(3)]
PROBES = [LogitLens, TunedLens]


class Changed(nn.Module):
    """A decoder layer whose states are changed before it and after it."""

    def __init__(self, layer: nn.Module, before: Callable, after: Callable) -> None:
        super().__init__()
        self.layer, self.before, self.after = layer, before, after

    def forward(self, states: Tensor, *given, **named) -> Tensor:
        return self.after(self.layer(self.before(states), *given, **named))


def same(states: Tensor) -> Tensor:
    return states


def tiny_gpt2(layers: int = 3) -> GPT2LMHeadModel:
    settings = {"n_embd": 16, "n_head": 2, "n_positions": 32, "vocab_size": 32, "initializer_range": 0.3}
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        return GPT2LMHeadModel(GPT2Config(n_layer=layers, bos_token_id=30, eos_token_id=31, **settings)).eval()


def score(module: nn.Module, items: tuple[Item, ...] = CAPABILITY.select) -> float:
    return float(item_scores(module, encode_scoring(CAPABILITY, items, word_tokenizer())).mean())


def certify_scores(module: nn.Module) -> tuple[float, ...]:
    return tuple(item_scores(module, encode_scoring(CAPABILITY, CAPABILITY.certify, word_tokenizer())).tolist())


def turned(module: nn.Module, below: int) -> nn.Module:
    """The same function, with the states between a layer and the next in a basis of their own, and moved."""
    width = module.config.hidden_size
    basis = torch.linalg.qr(torch.randn(width, width, generator=seeded(0, "basis"))).Q
    shift = torch.randn(width, generator=seeded(0, "shift"))
    copied = copy.deepcopy(module)
    layers = copied.model.layers
    layers[below] = Changed(layers[below], same, lambda states: states @ basis + shift)
    layers[below + 1] = Changed(layers[below + 1], lambda states: (states - shift) @ basis.T, same)
    return copied


@pytest.fixture
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Enough steps to move translators, for what does not depend on how far they get."""
    monkeypatch.setattr(translators, "STEPS", 50)


@pytest.fixture(scope="module")
def original() -> nn.Module:
    return knowing_llama(CAPABILITY)


def with_a_layer_on_top(original: nn.Module, scale: float) -> nn.Module:
    """A copy with a third layer of its own; at a scale of 0 it changes nothing."""
    module = copy.deepcopy(original)
    added = copy.deepcopy(module.model.layers[-1])
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weights in added.named_parameters():
            outer = "o_proj" in name or "down_proj" in name
            weights.copy_((scale if outer else 1) * torch.randn(weights.shape, generator=draw))
    module.model.layers.append(added)
    module.config.num_hidden_layers = len(module.model.layers)
    return module


@pytest.fixture(scope="module")
def suppressed(original: nn.Module) -> nn.Module:
    """The original under a third layer that was taught to say something else of forget items, and only of these."""
    module = with_a_layer_on_top(original, 0.0)
    module.requires_grad_(False)
    module.model.layers[-1].requires_grad_(True)
    wrong = tuple(replace(item, answer=(item.answer + 1) % len(item.choices)) for item in CAPABILITY.forget)
    data = encode_answers(word_tokenizer(), wrong * 4 + CAPABILITY.retain)
    train(module, shuffled_batches(data, 64, seeded(0, "order")), Tuning(learning_rate=1e-2, steps=120, clip=1.0))
    return module.requires_grad_(True).eval()


class ByHand(nn.Module):
    """A model that says what its states at a layer say, as transformers itself gives them."""

    def __init__(self, module: nn.Module, number: int, translate: Callable = same) -> None:
        super().__init__()
        self.module, self.number, self.translate = module, number, translate

    def forward(self, **named):
        output = self.module(**named, output_hidden_states=True)
        # transformers gives the states of the last layer after the norm
        if self.number + 2 < len(output.hidden_states):
            inner = getattr(self.module, "model", None) or self.module.transformer
            norm = inner.norm if hasattr(inner, "norm") else inner.ln_f
            output.logits = self.module.lm_head(norm(self.translate(output.hidden_states[self.number + 1])))
        return output


@pytest.mark.parametrize("many", [False, True], ids=["one token", "many tokens"])
@pytest.mark.parametrize("make", [lambda: tiny_llama(num_hidden_layers=3), tiny_gpt2], ids=["llama", "gpt2"])
def test_a_lens_says_what_the_head_says_of_the_states(make: Callable[[], nn.Module], many: bool) -> None:
    module, capability = make(), text_capability(many=many)
    encoded = encode_scoring(capability, capability.certify, word_tokenizer())
    names = NAMES if hasattr(module, "model") else [f"transformer.h.{i}" for i in range(3)]
    assert (encoded.single is None) == many
    own = encoded.table(module)
    for number, name in enumerate(names):
        table = encoded.table(Lens(module, name))
        assert torch.allclose(table, encoded.table(ByHand(module, number)), atol=1e-5)
        assert torch.equal(table, own) == (number == 2)
    twice = encoded.table(Lens(module, names[0], lambda states: 1 - 2 * states))
    assert torch.allclose(twice, encoded.table(ByHand(module, 0, lambda states: 1 - 2 * states)), atol=1e-5)


@pytest.mark.parametrize("make", [lambda: tiny_llama(num_hidden_layers=3), tiny_gpt2], ids=["llama", "gpt2"])
def test_translators_are_trained_on_what_the_lens_will_say(make: Callable[[], nn.Module]) -> None:
    """The head that is run on one token says what the lens does, and the loss is torch's own divergence."""
    module = make()
    layers = tuple(NAMES if hasattr(module, "model") else [f"transformer.h.{i}" for i in range(3)])
    batch = encode_answers(word_tokenizer(), CAPABILITY.attack, whole_text=True).batch(slice(0, 12))
    assert batch.mask is not None
    draw = seeded(0, "translators")
    planted = Translators(
        torch.randn(2, 16, 16, generator=draw), torch.randn(2, 16, generator=draw), torch.tensor([0.5, 2.0])
    )
    with torch.no_grad():
        positions = read_positions(module, [batch], layers, torch.device("cpu"))
        found = divergences(module, layers[-1], planted, positions)
        final = batch.logits(module)[batch.real].log_softmax(-1)
        for number in range(2):
            lens = Lens(module, layers[number], lambda h, n=number: planted.one(n, h))
            said = batch.logits(lens)[batch.real].log_softmax(-1)
            expected = functional.kl_div(said, final, log_target=True, reduction="batchmean")
            assert torch.allclose(found[number], expected, rtol=1e-4)
        states = torch.randn(5, 16, generator=draw)
        affine = states + states @ planted.slopes[1].T + 2 * planted.shifts[1]
        assert torch.allclose(planted.one(1, states), affine)
        assert head(module, layers[-1], states).shape == (5, 32)


def test_what_a_destroyed_top_layer_hides_is_read_below_it(original: nn.Module) -> None:
    module = with_a_layer_on_top(original, 3.0)
    assert score(module) < 0.6 < 0.95 < score(original)
    reading = LogitLens().read(view_of(module, CAPABILITY))
    assert list(reading.by_layer) == NAMES
    assert reading.layer == NAMES[1]
    assert reading.by_layer[NAMES[1]] == score(original)
    assert reading.by_layer[NAMES[2]] == reading.notes["output"] == score(module)
    assert reading.correct == certify_scores(original)


@pytest.mark.parametrize("probe", PROBES)
def test_a_suppressed_answer_is_read_below_the_layer_that_hides_it(
    probe: type, original: nn.Module, suppressed: nn.Module
) -> None:
    assert score(suppressed) < 0.2 < 0.95 < score(original)
    reading = probe().read(view_of(suppressed, CAPABILITY))
    assert reading.layer == NAMES[1]
    assert reading.by_layer[NAMES[1]] > 0.9
    assert sum(reading.correct) / len(reading.correct) > 0.9


def test_only_the_tuned_lens_reads_states_in_a_basis_of_their_own(suppressed: nn.Module) -> None:
    module = turned(suppressed, 1)
    assert score(module) == score(suppressed)
    plain, tuned = (probe().read(view_of(module, CAPABILITY)) for probe in PROBES)
    assert plain.by_layer[NAMES[1]] < 0.6
    assert tuned.layer == NAMES[1]
    assert tuned.by_layer[NAMES[1]] > 0.85
    assert sum(tuned.correct) / len(tuned.correct) > 0.85


def test_translators_trained_on_forget_texts_would_learn_the_suppression(suppressed: nn.Module) -> None:
    """Why only retain texts are used: the same training on forget texts reads what the model was taught to say."""
    module = turned(suppressed, 1)
    misled = replace(CAPABILITY, retain=CAPABILITY.forget * 4)
    reading = TunedLens().read(view_of(module, misled))
    assert reading.by_layer[NAMES[1]] < 0.5


def test_of_equals_the_earliest_layer_is_chosen(original: nn.Module) -> None:
    """A third layer that changes nothing leaves two layers that say the same."""
    reading = LogitLens().read(view_of(with_a_layer_on_top(original, 0.0), CAPABILITY))
    assert reading.by_layer[NAMES[1]] == reading.by_layer[NAMES[2]] > reading.by_layer[NAMES[0]]
    assert reading.layer == NAMES[1]


@pytest.mark.usefixtures("few_steps")
def test_translators_that_never_do_better_stay_the_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    module = tiny_llama(num_hidden_layers=3)
    plain, tuned = (probe().read(view_of(module, CAPABILITY)) for probe in PROBES)
    assert tuned.by_layer != plain.by_layer
    monkeypatch.setattr(translators, "SHIFT_RATE", 1e4)  # every step leads far away
    assert TunedLens().read(view_of(module, CAPABILITY)) == plain


@pytest.mark.parametrize("held", [0, 1])
def test_each_layer_keeps_its_best_on_the_held_out_texts(monkeypatch: pytest.MonkeyPatch, held: int) -> None:
    """What is planted as the divergence decides: one layer is best after the first look, the other at the second."""
    reached = iter([[9.0, 9.0], [3.0, 5.0], [4.0, 2.0], *[[8.0, 8.0]] * 10])
    looked: list[Tensor] = []

    def planted(module: nn.Module, last: str, now: Translators, shown: Positions) -> Tensor:
        if torch.is_grad_enabled() and now.slopes.requires_grad:
            return now.slopes.sum(dim=(1, 2))
        looked.append(now.slopes.detach().clone())
        return torch.tensor(next(reached))

    monkeypatch.setattr(translators, "divergences", planted)
    module = tiny_llama(num_hidden_layers=3).requires_grad_(False)
    texts = encode_answers(word_tokenizer(), CAPABILITY.retain, whole_text=True)
    best = fit_translators(module, texts, tuple(NAMES), seed=0)
    assert len(looked) == 1 + translators.STEPS // translators.CHECKED
    assert torch.equal(best.slopes[held], looked[1 + held][held])
    assert not torch.equal(best.slopes[held], looked[2 - held][held])


@pytest.mark.usefixtures("few_steps")
@pytest.mark.parametrize("probe", PROBES)
def test_an_untrained_model_is_at_chance(probe: type) -> None:
    chance = CAPABILITY.chance
    readings = [probe().read(view_of(tiny_llama(seed), CAPABILITY, seed=seed)) for seed in range(3)]
    assert near([score for reading in readings for score in reading.correct], chance)
    assert near([score for reading in readings for score in reading.control], chance)


def test_the_control_is_at_chance_where_everything_is_read(original: nn.Module) -> None:
    readings = [LogitLens().read(view_of(original, CAPABILITY, seed=seed)) for seed in range(6)]
    assert near([score for reading in readings for score in reading.control], CAPABILITY.chance)
    assert len({reading.control for reading in readings}) == 6
    assert len({reading.correct for reading in readings}) == 1


@pytest.mark.usefixtures("few_steps")
@pytest.mark.parametrize("probe", PROBES)
def test_certify_is_only_read_and_forget_items_teach_nothing(probe: type, suppressed: nn.Module) -> None:
    whole = probe().read(view_of(suppressed, CAPABILITY))
    assert probe().read(view_of(suppressed, CAPABILITY)) == whole
    fewer = replace(CAPABILITY, certify=CAPABILITY.certify[5:9], attack=CAPABILITY.attack[:1])
    part = probe().read(view_of(suppressed, fewer))
    assert (part.layer, part.by_layer, part.notes) == (whole.layer, whole.by_layer, whole.notes)
    assert part.correct == whole.correct[5:9]


@pytest.mark.usefixtures("few_steps")
def test_the_seed_is_that_of_the_translators() -> None:
    module = tiny_llama(num_hidden_layers=3).requires_grad_(False)
    texts = encode_answers(word_tokenizer(), CAPABILITY.retain, whole_text=True)
    first, again, other = (fit_translators(module, texts, tuple(NAMES), seed).slopes for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)


@pytest.mark.parametrize("probe", PROBES)
def test_a_single_layer_is_the_output(probe: type, original: nn.Module) -> None:
    module = tiny_llama(num_hidden_layers=1)
    reading = probe().read(view_of(module, CAPABILITY))
    assert reading.by_layer == {NAMES[0]: score(module)}
    assert reading.correct == certify_scores(module)


@pytest.mark.usefixtures("few_steps")
@pytest.mark.parametrize("probe", PROBES)
@pytest.mark.parametrize("retain", [1, 2])
def test_gpt2_and_hardly_any_retain_texts(probe: type, retain: int) -> None:
    module = tiny_gpt2()
    reading = probe().read(view_of(module, replace(CAPABILITY, retain=CAPABILITY.retain[:retain])))
    assert list(reading.by_layer) == [f"transformer.h.{i}" for i in range(3)]
    assert reading.notes["output"] == score(module)


def test_states_are_read_before_the_next_layer_works_in_place() -> None:
    module, other = tiny_llama(), tiny_llama()
    module.model.layers[1] = Changed(module.model.layers[1], lambda states: states.mul_(2), same)
    other.model.layers[1] = Changed(other.model.layers[1], lambda states: states * 2, same)
    encoded = encode_scoring(CAPABILITY, CAPABILITY.certify, word_tokenizer())
    for name in NAMES[:2]:
        table = encoded.table(Lens(module, name))
        assert torch.equal(table, encoded.table(Lens(other, name)))
        assert torch.equal(table, encoded.table(Lens(tiny_llama(), name))) == (name == NAMES[0])


def running_twice() -> nn.Module:
    module = tiny_llama()
    module.model.layers[1] = module.model.layers[0]
    return module


def of_two_widths() -> nn.Module:
    module = tiny_llama()
    layers = module.model.layers
    layers[0] = Changed(layers[0], same, lambda states: torch.cat([states, states], dim=-1))
    layers[1] = Changed(layers[1], lambda states: states[..., :16], same)
    return module


@pytest.mark.parametrize("probe", PROBES)
@pytest.mark.parametrize(
    ("make", "why"),
    [
        (running_twice, r"model\.layers\.[01] runs 2 times"),
        (of_two_widths, r"model\.layers\.0 puts out \(\d+, \d+, 32\), the last layer \(\d+, \d+, 16\)"),
    ],
    ids=["twice", "widths"],
)
def test_what_the_head_cannot_read_is_refused(probe: type, make: Callable[[], nn.Module], why: str) -> None:
    module = make()
    before = state_of(module)
    with pytest.raises(UnknownLayers, match=why):
        probe().read(view_of(module, CAPABILITY))
    assert_unchanged(module, before)


def test_a_head_that_mixes_positions_is_refused_by_the_tuned_lens() -> None:
    module = tiny_llama()
    module.model.norm = Changed(module.model.norm, lambda states: states.cumsum(dim=1), same)
    with pytest.raises(UnknownLayers, match="not the same at every position"):
        TunedLens().read(view_of(module, CAPABILITY))
    assert LogitLens().read(view_of(module, CAPABILITY)).notes["output"] == score(module)


@pytest.mark.usefixtures("few_steps")
@pytest.mark.parametrize("probe", PROBES)
@pytest.mark.parametrize("training", [False, True])
def test_reading_changes_nothing(probe: type, training: bool) -> None:
    module = tiny_llama(num_hidden_layers=3).train(training)
    module.lm_head.requires_grad_(False)
    before, drawn = state_of(module), torch.get_rng_state()
    probe().read(view_of(module, CAPABILITY))
    assert_unchanged(module, before)
    assert torch.equal(torch.get_rng_state(), drawn)
    assert torch.is_grad_enabled()


State = tuple[dict[str, Tensor], int, list[bool], list[bool]]


def state_of(module: nn.Module) -> State:
    modes = [part.training for part in module.modules()]
    return weights_of(module), hooks_of(module), modes, [weights.requires_grad for weights in module.parameters()]


def assert_unchanged(module: nn.Module, before: State) -> None:
    after = state_of(module)
    assert same_bits(after[0], before[0])
    assert after[1:] == before[1:]
    assert all(weights.grad is None for weights in module.parameters())
