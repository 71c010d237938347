"""Activation patching on models that are damaged at a known place, and against layers that are run by hand."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from tiny_classifiers import tiny_mlp, tiny_points, trained_mlp
from tiny_models import same_bits, tiny_llama, weights_of, word_tokenizer
from tiny_tasks import hooks_of
from tiny_views import knowing_llama, near, text_capability, view_of
from torch import nn

from redteam.capabilities.items import Capability
from redteam.capabilities.reading import encode_scoring
from redteam.capabilities.scorers.contract import item_scores
from redteam.engine.activations import UnknownLayers
from redteam.errors import InputError
from redteam.probes.contract import ProbeReading
from redteam.probes.patching import Patched, Patching

LAYERS = 3
NAMES = [f"model.layers.{i}" for i in range(LAYERS)]
CAPABILITY = text_capability()


@pytest.fixture(scope="module")
def original() -> nn.Module:
    return knowing_llama(CAPABILITY, layers=LAYERS)


def damaged(original: nn.Module, part: str) -> nn.Module:
    """A copy with one part's weights drawn anew, large enough to drown what the residual path carries."""
    module = copy.deepcopy(original)
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weights in module.get_submodule(part).parameters():
            weights.copy_(3 * torch.randn(weights.shape, generator=draw))
    return module


def read(module: nn.Module, original: nn.Module, capability: Capability = CAPABILITY, seed: int = 0) -> ProbeReading:
    return Patching().read(view_of(module, capability, original=original, seed=seed))


def score(module: nn.Module, capability: Capability = CAPABILITY) -> float:
    tokenizer = None if capability.inputs is not None else word_tokenizer()
    return float(item_scores(module, encode_scoring(capability, capability.select, tokenizer)).mean())


def certify_scores(module: nn.Module) -> tuple[float, ...]:
    return tuple(item_scores(module, encode_scoring(CAPABILITY, CAPABILITY.certify, word_tokenizer())).tolist())


@pytest.mark.parametrize("number", range(LAYERS))
def test_what_returns_and_where_is_known_of_one_damaged_layer(original: nn.Module, number: int) -> None:
    """Below the damage patching changes nothing, from it on it brings everything back: bit for bit, as all else is."""
    module = damaged(original, NAMES[number])
    before, known = score(module), score(original)
    assert before < 0.6 < 0.99 < known
    reading = read(module, original)
    assert list(reading.by_layer.items()) == [
        (name, before if index < number else known) for index, name in enumerate(NAMES)
    ]
    assert reading.layer == NAMES[number]
    assert reading.notes == {"depth": number / (LAYERS - 1), "unpatched": before, "original": known}
    assert reading.correct == certify_scores(original)


def test_damaged_embeddings_are_at_the_bottom(original: nn.Module) -> None:
    reading = read(damaged(original, "model.embed_tokens"), original)
    assert set(reading.by_layer.values()) == {score(original)}
    assert reading.layer == NAMES[0]
    assert reading.notes["depth"] == 0


def test_what_is_hidden_behind_the_head_never_returns(original: nn.Module) -> None:
    """As in the masked decoy: all states are the original's already, and patching them changes nothing."""
    module = damaged(original, "lm_head")
    reading = read(module, original)
    assert set(reading.by_layer.values()) == {score(module)}
    assert reading.layer == ""
    assert reading.notes["depth"] == 2
    assert reading.correct == certify_scores(module)


def test_the_original_patched_into_itself_is_the_original(original: nn.Module) -> None:
    for module in (original, copy.deepcopy(original)):
        reading = read(module, original)
        assert set(reading.by_layer.values()) == {score(original)}
        assert (reading.layer, reading.notes["depth"]) == (NAMES[0], 0)
        assert reading.correct == certify_scores(original)


def test_two_damaged_layers_return_from_the_upper_one_on(original: nn.Module) -> None:
    module = damaged(damaged(original, NAMES[0]), NAMES[1])
    assert read(module, original).layer == NAMES[1]


def test_where_no_layer_brings_half_back_the_best_is_read(original: nn.Module) -> None:
    """A ruined layer, and a head that confuses two answers: patching gets as far as the head lets it."""
    module, confused = damaged(original, NAMES[1]), copy.deepcopy(original)
    for head in (module.lm_head, confused.lm_head):
        with torch.no_grad():
            head.weight[[0, 3]] = head.weight[[3, 0]]
    before, most = score(module), score(confused)
    assert before < most < (before + score(original)) / 2
    reading = read(module, original)
    assert list(reading.by_layer.values()) == [before, most, most]
    assert (reading.layer, reading.notes["depth"]) == ("", 2)
    assert reading.correct == certify_scores(confused)


@pytest.mark.parametrize("number", range(LAYERS))
def test_the_logits_are_those_of_the_upper_layers_run_by_hand(number: int) -> None:
    """Two unrelated models: the states of one, as transformers gives them, into what is left of the other."""
    original, module = tiny_llama(1, num_hidden_layers=LAYERS + 1), tiny_llama(2, num_hidden_layers=LAYERS + 1)
    encoded = encode_scoring(CAPABILITY, CAPABILITY.certify, word_tokenizer())
    batch = encoded.rows.batch(slice(0, 16))
    assert batch.mask is not None
    upper = copy.deepcopy(module)
    upper.model.layers = upper.model.layers[number + 1 :]
    upper.config.num_hidden_layers = len(upper.model.layers)
    with torch.no_grad():
        states = original(batch.input_ids, attention_mask=batch.mask, output_hidden_states=True).hidden_states
        by_hand = upper(inputs_embeds=states[number + 1], attention_mask=batch.mask, use_cache=False).logits
        patched = Patched(original, module, NAMES[number])
        says, own = batch.logits(patched), batch.logits(module)
    assert torch.allclose(says[batch.real], by_hand[batch.real], atol=1e-5)
    assert not torch.allclose(says[batch.real], own[batch.real], atol=1e-2)


def test_what_lies_below_takes_no_part() -> None:
    """All positions are replaced: whatever the model's lower layers do, it answers the same."""
    original, module = tiny_llama(1, num_hidden_layers=LAYERS), tiny_llama(2, num_hidden_layers=LAYERS)
    encoded = encode_scoring(CAPABILITY, CAPABILITY.certify, word_tokenizer())
    whole = encoded.table(Patched(original, module, NAMES[1]))
    for part in ("model.embed_tokens", NAMES[0], NAMES[1]):
        other = encoded.table(Patched(original, damaged(module, part), NAMES[1]))
        assert torch.equal(other, whole)
    assert not torch.equal(encoded.table(Patched(original, damaged(module, NAMES[2]), NAMES[1])), whole)


def test_answers_of_many_tokens_and_small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    capability = text_capability(many=True)
    original = knowing_llama(capability, layers=LAYERS)
    module = damaged(original, NAMES[1])
    monkeypatch.setattr("redteam.capabilities.scorers.choices.SCORING_BATCH", 7)
    monkeypatch.setattr("redteam.capabilities.scorers.likelihood.SCORING_BATCH", 7)
    reading = read(module, original, capability)
    assert list(reading.by_layer.values()) == [score(module, capability), *[score(original, capability)] * 2]


@pytest.mark.parametrize("number", [0, 1, 2])
def test_classifiers(number: int) -> None:
    """Three layers, of which the last is the head; one of them is negated, and wrong about everything."""
    capability = tiny_points()
    original = trained_mlp(capability, forget=True)
    module = copy.deepcopy(original)
    linear = [name for name, part in module.named_modules() if isinstance(part, nn.Linear)]
    assert len(linear) == 3
    with torch.no_grad():
        module.get_submodule(linear[number]).weight.neg_()
    before, known = score(module, capability), score(original, capability)
    assert before < 0.5 < known
    reading = read(module, original, capability)
    assert list(reading.by_layer) == linear[:2]
    if number == 2:
        assert (reading.layer, reading.notes["depth"]) == ("", 2)
        assert set(reading.by_layer.values()) == {before}
    else:
        assert (reading.layer, reading.notes["depth"]) == (linear[number], number)
        assert list(reading.by_layer.values()) == [before] * number + [known] * (2 - number)


class Spare(nn.Module):
    """A perceptron with a layer that takes no part, one that runs twice, and activations that work in place."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(seed)
            self.first, self.spare = nn.Linear(6, 8), nn.Linear(8, 8)
            self.twice, self.head = nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        hidden = self.first(inputs.flatten(1)).relu_().mul_(2)
        for _ in range(2):
            hidden = self.twice(hidden).relu_().mul_(2)
        return self.head(hidden)


def test_layers_that_run_never_or_twice_and_work_in_place() -> None:
    capability = tiny_points()
    original, module = Spare(1).eval(), Spare(2).eval()
    assert list(read(module, original, capability).by_layer) == ["first", "twice"]
    encoded = encode_scoring(capability, capability.certify, None)
    with torch.no_grad():
        x = encoded.examples.inputs.flatten(1)
        hidden = 2 * original.first(x).relu()
        for _ in range(2):
            hidden = 2 * original.twice(hidden).relu()
        assert torch.equal(Patched(original, module, "twice")(encoded.examples.inputs), module.head(hidden))
        patched = 2 * original.first(x).relu()
        for _ in range(2):
            patched = 2 * module.twice(patched).relu()
        assert torch.equal(Patched(original, module, "first")(encoded.examples.inputs), module.head(patched))


def test_the_layer_is_chosen_on_select_and_certify_is_only_read(original: nn.Module) -> None:
    module = damaged(original, NAMES[1])
    whole = read(module, original)
    fewer = Capability(**{**_parts(CAPABILITY), "certify": CAPABILITY.certify[5:9]})
    part = read(module, original, fewer)
    assert (part.layer, part.by_layer, part.notes) == (whole.layer, whole.by_layer, whole.notes)
    assert part.correct == whole.correct[5:9]


def _parts(capability: Capability) -> dict:
    names = ("name", "attack", "select", "certify", "retain", "utility")
    return {name: getattr(capability, name) for name in names}


def test_the_control_is_at_chance_where_everything_returns(original: nn.Module) -> None:
    module = damaged(original, NAMES[1])
    readings = [read(module, original, seed=seed) for seed in range(6)]
    chance = CAPABILITY.chance
    assert near([score for reading in readings for score in reading.control], chance)
    assert len({reading.control for reading in readings}) == 6
    assert len({reading.correct for reading in readings}) == 1
    assert read(module, original, seed=3) == readings[3]


def test_other_layers_are_refused() -> None:
    with pytest.raises(InputError, match="other layers"):
        read(tiny_llama(), tiny_llama(num_hidden_layers=3))
    with pytest.raises(InputError, match=r"model\.layers\.0 puts out \(24, 3, 24\) in the original, \(24, 3, 16\)"):
        read(tiny_llama(), tiny_llama(hidden_size=24))
    with pytest.raises(InputError, match="other layers"):
        read(tiny_mlp(), tiny_mlp(sizes=(6, 16, 12, 8, 4)), tiny_points())
    with pytest.raises(InputError, match="puts out"):
        read(tiny_mlp(), tiny_mlp(sizes=(6, 16, 10, 4)), tiny_points())


def test_layers_that_run_more_often_in_one_are_refused() -> None:
    other = Spare(1)
    other.forward = lambda inputs: other.head(other.twice(other.first(inputs.flatten(1))))  # type: ignore[method-assign]
    with pytest.raises(InputError, match="twice runs less often in the original"):
        read(Spare(2), other, tiny_points())
    with pytest.raises(InputError, match="twice runs more often in the original"):
        read(other, Spare(2), tiny_points())


def test_without_an_original_there_is_nothing_to_patch() -> None:
    with pytest.raises(InputError, match="before unlearning"):
        Patching().read(view_of(tiny_llama(), CAPABILITY))


def test_a_model_without_hidden_layers_says_so() -> None:
    with pytest.raises(UnknownLayers):
        read(nn.Flatten(), nn.Flatten(), tiny_points())


def opened(make: Callable[[], nn.Module]) -> tuple[nn.Module, dict[str, torch.Tensor], int]:
    module = make()
    return module, weights_of(module), hooks_of(module)


@pytest.mark.parametrize("width", [16, 24], ids=["read", "refused"])
def test_reading_changes_nothing_even_where_it_fails(width: int) -> None:
    models = [opened(tiny_llama), opened(lambda: tiny_llama(1, hidden_size=width))]
    try:
        read(models[0][0], models[1][0])
    except InputError:
        assert width == 24
    for module, weights, hooks in models:
        assert same_bits(weights_of(module), weights)
        assert hooks_of(module) == hooks
        assert not module.training
        assert all(p.grad is None and p.requires_grad for p in module.parameters())
