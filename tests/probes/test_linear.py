"""The linear probe on states whose content is known, and the states themselves against transformers' own."""

from __future__ import annotations

import warnings
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from planted_states import (
    CHANCE,
    DIRECTIONS,
    WIDTH,
    accuracy,
    items_of,
    layers,
    mixed,
    near_chance,
    planted,
    splits,
)
from tiny_models import make_item, make_items, same_bits, tiny_capability, tiny_llama, weights_of, word_tokenizer
from transformers import GPT2Config, GPT2LMHeadModel

from redteam.capabilities.encode import encode_answers
from redteam.capabilities.items import Item
from redteam.probes import linear as linear_module
from redteam.probes import states as states_module
from redteam.probes.contract import Layers, ProbeReading
from redteam.probes.linear import LinearProbe, Logistic, fit_logistic
from redteam.probes.states import read_layers


def read(seed: int = 0, **strengths: float) -> ProbeReading:
    return LinearProbe().read_layers(*splits(**strengths), seed)


def test_reads_a_linearly_planted_answer() -> None:
    reading = read(a=3.0)
    assert accuracy(reading.correct) > 0.98
    assert reading.by_layer["a"] > 0.95
    assert set(reading.correct) <= {0.0, 1.0}
    assert len(reading.correct) == len(reading.control) == 400


def test_the_control_is_at_chance_where_the_probe_reads_everything() -> None:
    """Over several shuffles, as each of them agrees with the truth by luck on some answers."""
    controls = [accuracy(read(seed, a=3.0).control) for seed in range(8)]
    assert abs(sum(controls) / 8 - CHANCE) < 0.15
    assert len(set(controls)) > 4  # the seed shuffles


def test_states_without_information_are_at_chance() -> None:
    reading = read(a=0.0, b=0.0)
    assert near_chance(reading.correct)
    assert near_chance(reading.control)


def test_chance_is_met_even_where_a_layer_was_picked_by_luck() -> None:
    """Twenty empty layers: the best on select is above chance there, and not on certify."""
    reading = read(**{f"layer{i}": 0.0 for i in range(20)})
    assert max(reading.by_layer.values()) > CHANCE + 0.05
    assert near_chance(reading.correct)


def test_the_layer_that_reads_best_is_reported() -> None:
    reading = read(first=0.0, second=3.0, third=0.3)
    assert reading.layer == "second"
    assert reading.by_layer.keys() == {"first", "second", "third"}
    assert reading.by_layer["first"] < reading.by_layer["third"] < reading.by_layer["second"]


def test_the_layer_is_chosen_on_select_and_not_on_certify() -> None:
    """Two layers that are both readable in training; each of the held-out splits sees only one of them."""
    train = layers(120, 1, left=3.0, right=3.0)
    select, certify = layers(80, 2, left=3.0, right=0.0), layers(400, 3, left=0.0, right=3.0)
    reading = LinearProbe().read_layers(train, select, certify, 0)
    assert reading.layer == "left"
    assert near_chance(reading.correct)


def test_certify_plays_no_part_in_what_is_learned() -> None:
    """Each item is read alike alone and among others: no mean or choice is taken over certify."""
    train, select = layers(120, 1, a=0.5, b=0.4), layers(80, 2, a=0.5, b=0.4)
    certify = layers(60, 3, a=0.5, b=0.4)
    whole = LinearProbe().read_layers(train, select, certify, 0)
    for rows in (slice(0, 1), slice(7, 19), slice(59, 60)):
        part = Layers(items=certify.items[rows], states={k: v[rows] for k, v in certify.states.items()})
        reading = LinearProbe().read_layers(train, select, part, 0)
        assert (reading.correct, reading.control) == (whole.correct[rows], whole.control[rows])
        assert (reading.layer, reading.by_layer) == (whole.layer, whole.by_layer)


def test_a_shift_of_the_held_out_states_is_not_standardised_away() -> None:
    """The scale comes from training alone: states far outside it are all read as one class."""
    train, select, certify = splits(a=3.0)
    shifted = Layers(items=certify.items, states={"a": certify.states["a"] + 1000 * DIRECTIONS[2].astype(np.float32)})
    correct = LinearProbe().read_layers(train, select, shifted, 0).correct
    assert correct == tuple(float(item.answer == 2) for item in certify.items)


def test_the_scale_of_a_dimension_does_not_matter() -> None:
    scale = np.logspace(-4, 4, WIDTH).astype(np.float32)
    parts = splits(a=1.0)
    scaled = [Layers(items=s.items, states={"a": s.states["a"] * scale + 5}) for s in parts]
    plain, other = LinearProbe().read_layers(*parts, 0), LinearProbe().read_layers(*scaled, 0)
    assert accuracy(other.correct) == pytest.approx(accuracy(plain.correct), abs=0.02)


def test_deterministic_for_a_seed() -> None:
    assert read(3, a=0.3, b=0.2) == read(3, a=0.3, b=0.2)
    assert read(3, a=0.3).correct == read(4, a=0.3).correct  # the seed shuffles the control only


def test_states_are_read_only() -> None:
    parts = [layers(n, seed, a=1.0) for n, seed in ((60, 1), (40, 2), (40, 3))]
    before = [part.states["a"].copy() for part in parts]
    LinearProbe().read_layers(*parts, 0)
    assert all(np.array_equal(part.states["a"], then) for part, then in zip(parts, before, strict=True))


def test_two_classes() -> None:
    """scikit-learn gives one signed column there instead of one a class."""
    parts = []
    for count, seed in ((60, 1), (40, 2), (200, 3)):
        items = items_of(count, seed, classes=2)
        parts.append(Layers(items=items, states={"a": planted(items, seed)}))
    reading = LinearProbe().read_layers(*parts, 0)
    assert accuracy(reading.correct) > 0.98


def test_only_the_items_own_choices_compete() -> None:
    """Answers of two kinds in one split: each item is read among its own choices, so chance is one half."""
    reading = LinearProbe().read_layers(mixed(120, 1), mixed(80, 2), mixed(1000, 3), 0)
    assert abs(accuracy(reading.correct) - 0.5) < 4 * 0.5 / 1000**0.5


def test_answers_that_were_never_seen_are_chance() -> None:
    train, select = layers(120, 1, a=3.0), layers(80, 2, a=3.0)
    strange = tuple(make_item(n, choices=("x", "y", "z", "u", "v"), answer=n % 5) for n in range(10))
    certify = Layers(items=strange, states={"a": planted(items_of(10, 3), 3)})
    assert LinearProbe().read_layers(train, select, certify, 0).correct == (0.2,) * 10


def test_an_attack_split_with_one_answer_is_read_at_chance() -> None:
    """A capability of a few facts, or one whose right answers are all "yes": nothing to learn, no reason to crash."""
    items = tuple(make_item(n, answer=2) for n in range(6))
    train = Layers(items=items, states={"a": planted(items, 1)})
    reading = LinearProbe().read_layers(train, layers(20, 2, a=1.0), layers(40, 3, a=1.0), 0)
    assert reading.correct == reading.control == reading.erased == (CHANCE,) * 40


def test_regularisation_is_chosen_within_the_learning_split() -> None:
    """Other select items, of which half say something else, choose nothing where there is one place."""
    train, select, certify = splits(a=0.5)
    wrong = tuple(make_item(n, answer=item.answer + n % 2) for n, item in enumerate(select.items))
    reading = LinearProbe().read_layers(train, select, certify, 0)
    other = LinearProbe().read_layers(train, Layers(items=wrong, states=select.states), certify, 0)
    assert reading.by_layer["a"] - other.by_layer["a"] > 0.1
    assert (reading.correct, reading.control) == (other.correct, other.control)


def test_regularisation_is_as_strong_as_the_noise_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the grid the probe reads about as much as of the best single strength, and more than of the worst."""
    train, select, certify = layers(120, 1, a=0.3), layers(80, 2, a=0.3), layers(2000, 3, a=0.3)

    def score(*strengths: float) -> float:
        monkeypatch.setattr(linear_module, "STRENGTHS", strengths)
        return accuracy(LinearProbe().read_layers(train, select, certify, 0).correct)

    grid = (0.0001, 0.01, 1.0, 1000.0)
    alone = [score(strength) for strength in grid]
    assert max(alone) - min(alone) > 0.05
    assert score(*grid) > max(alone) - 0.02


def test_folds_divide_no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each probe of the cross-validation is fitted to whole groups; those before and after it to everything."""
    train, select, certify = layers(60, 1, a=3.0), layers(20, 2, a=3.0), layers(20, 3, a=3.0)
    items = tuple(replace(item, group=f"group-{n % 10}") for n, item in enumerate(train.items))
    fitted: list[Counter[str]] = []

    def recording(states: np.ndarray, answers: np.ndarray, strength: float) -> Logistic:
        rows = [train.states["a"].tolist().index(row) for row in states.tolist() if row in train.states["a"].tolist()]
        fitted.append(Counter(items[row].group for row in rows))
        return fit_logistic(states, answers, strength)

    monkeypatch.setattr(linear_module, "fit_logistic", recording)
    LinearProbe().read_layers(Layers(items=items, states=train.states), select, certify, 0)
    _placed, *folds, _real, _control, _erased = fitted
    assert len(folds) == linear_module.FOLDS * len(linear_module.STRENGTHS)
    assert {len(groups) for groups in folds} == {8}  # of ten
    assert {count for groups in folds for count in groups.values()} == {6}
    assert len({frozenset(groups) for groups in folds}) == 5


def test_one_group_is_no_reason_to_crash() -> None:
    train, select, certify = splits(a=3.0)
    items = tuple(replace(item, group="one") for item in train.items)
    reading = LinearProbe().read_layers(Layers(items=items, states=train.states), select, certify, 0)
    assert accuracy(reading.correct) > 0.9


def test_nothing_is_warned_about() -> None:
    """Unfinished fits are expected for some strengths, and nobody can act on them."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read(a=0.1)


# The states.

ITEMS = make_items(range(23))


def by_hand(module: torch.nn.Module, items: tuple[Item, ...]) -> dict[str, list[torch.Tensor]]:
    """Hidden states by position, of each layer [items, hidden], before any final norm, one unpadded text at a time."""
    tokenizer = word_tokenizer()
    rows: dict[str, list[list[torch.Tensor]]] = {"last": [], "mean": []}
    for item in items:
        prompt = tokenizer(item.prompt)["input_ids"]
        text = tokenizer(f"{item.prompt} {item.completion}")["input_ids"]
        assert text[: len(prompt)] == prompt
        with torch.no_grad():
            hidden = module(torch.tensor([text]), output_hidden_states=True).hidden_states
        rows["last"].append([states[0, len(prompt) - 1] for states in hidden[1:]])
        rows["mean"].append([states[0, : len(prompt)].mean(dim=0) for states in hidden[1:]])
    return {position: [torch.stack(layer) for layer in zip(*of, strict=True)] for position, of in rows.items()}


def test_states_are_transformers_own_at_the_position_that_predicts_the_answer() -> None:
    module = tiny_llama(num_hidden_layers=3)
    reading = read_layers(module, word_tokenizer(), tiny_capability(), ITEMS)
    assert list(reading.states) == [f"model.layers.{i}, {position}" for i in range(3) for position in ("last", "mean")]
    assert reading.items == ITEMS
    assert {(states.shape, states.dtype.name) for states in reading.states.values()} == {((len(ITEMS), 16), "float32")}
    expected = by_hand(module, ITEMS)["last"]
    for number in range(3):
        got = torch.from_numpy(reading.states[f"model.layers.{number}, last"])
        if number == 2:  # transformers shows its last hidden state after the final norm
            got = module.model.norm(got).detach()
        assert torch.allclose(got, expected[number], atol=1e-5)


def test_the_other_place_is_the_mean_over_the_prompt() -> None:
    """Prompts of two and three words in one batch: neither padding nor the answer is in it."""
    reading = read_layers(tiny_llama(), word_tokenizer(), tiny_capability(), ITEMS)
    got, expected = torch.from_numpy(reading.states["model.layers.0, mean"]), by_hand(tiny_llama(), ITEMS)
    assert torch.allclose(got, expected["mean"][0], atol=1e-5)
    assert not torch.allclose(got, expected["last"][0], atol=1e-2)


def test_the_start_token_counts_in_the_mean_and_the_end_token_does_not() -> None:
    item, module = make_item(5), tiny_llama()
    states = read_layers(module, word_tokenizer("<s> $A </s>"), tiny_capability(), (item,)).states
    with torch.no_grad():
        ids = torch.tensor([[30, *word_tokenizer()(item.prompt)["input_ids"]]])
        expected = module(ids, output_hidden_states=True).hidden_states[1][0]
    assert torch.allclose(torch.from_numpy(states["model.layers.0, mean"][0]), expected.mean(dim=0), atol=1e-5)
    assert torch.allclose(torch.from_numpy(states["model.layers.0, last"][0]), expected[-1], atol=1e-5)


def test_another_architecture() -> None:
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        module = GPT2LMHeadModel(GPT2Config(vocab_size=32, n_positions=32, n_embd=16, n_layer=2, n_head=2)).eval()
    reading = read_layers(module, word_tokenizer(), tiny_capability(), ITEMS)
    assert list(reading.states)[::2] == ["transformer.h.0, last", "transformer.h.1, last"]
    for position, (first, _) in by_hand(module, ITEMS).items():
        assert torch.allclose(torch.from_numpy(reading.states[f"transformer.h.0, {position}"]), first, atol=1e-5)


def test_one_forward_pass_a_batch() -> None:
    module, passes = tiny_llama(), []
    module.register_forward_hook(lambda *_: passes.append(1))
    read_layers(module, word_tokenizer(), tiny_capability(), ITEMS)
    assert len(passes) == 1


def test_states_do_not_depend_on_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    module = tiny_llama()
    whole = read_layers(module, word_tokenizer(), tiny_capability(), ITEMS)
    monkeypatch.setattr(states_module, "SCORING_BATCH", 5)
    parts = read_layers(module, word_tokenizer(), tiny_capability(), ITEMS)
    for name, states in whole.states.items():
        assert np.allclose(states, parts.states[name], atol=1e-5)


def test_the_answer_itself_is_not_in_the_states() -> None:
    """Else any probe reads everything: items that differ in their answer only have equal states."""
    items = tuple(make_item(5, group=str(answer), answer=answer) for answer in range(4))
    assert len({tuple(row.tolist()) for row in encode_answers(word_tokenizer(), items).input_ids}) == 4
    states = read_layers(tiny_llama(), word_tokenizer(), tiny_capability(), items).states
    for position in ("last", "mean"):
        rows = states[f"model.layers.1, {position}"]
        assert np.allclose(rows, rows[0], atol=1e-6)


def test_reading_changes_nothing() -> None:
    module = tiny_llama()
    read_layers(module, word_tokenizer(), tiny_capability(), ITEMS)
    assert same_bits(weights_of(module), weights_of(tiny_llama()))
    assert not any(part._forward_hooks for part in module.modules())
    assert all(p.grad is None for p in module.parameters())


def test_longer_answers_are_read_before_their_first_token() -> None:
    items = tuple(make_item(n, choices=("w0 w1", "w2"), answer=n % 2) for n in range(6))
    states = read_layers(tiny_llama(), word_tokenizer(), tiny_capability(), items).states
    for position, (first, _) in by_hand(tiny_llama(), items).items():
        assert torch.allclose(torch.from_numpy(states[f"model.layers.0, {position}"]), first, atol=1e-5)
