"""The linear probe on states whose content is known, and the states themselves against transformers' own."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from tiny_models import make_item, make_items, same_bits, tiny_capability, tiny_llama, weights_of, word_tokenizer
from transformers import GPT2Config, GPT2LMHeadModel

from redteam.capabilities.encode import encode_answers
from redteam.capabilities.items import Item
from redteam.probes import states as states_module
from redteam.probes.contract import Layers, ProbeReading
from redteam.probes.linear import LinearProbe
from redteam.probes.states import read_layers

WIDTH, CLASSES = 24, 4
CHANCE = 1 / CLASSES
DIRECTIONS = np.random.default_rng(0).normal(size=(CLASSES, WIDTH))


def items_of(count: int, seed: int, classes: int = CLASSES) -> tuple[Item, ...]:
    answers = np.random.default_rng([seed, 1]).integers(classes, size=count)
    choices = tuple(f"w{i}" for i in range(classes))
    return tuple(make_item(n, choices=choices, answer=int(answer)) for n, answer in enumerate(answers))


def planted(items: tuple[Item, ...], seed: int, strength: float = 3.0) -> np.ndarray:
    """Gaussian noise plus a direction for each answer: linearly readable, the better the stronger."""
    noise = np.random.default_rng([seed, 2]).normal(size=(len(items), WIDTH))
    return (noise + strength * DIRECTIONS[[item.answer for item in items]]).astype(np.float32)


def layers(count: int, seed: int, **strengths: float) -> Layers:
    items = items_of(count, seed)
    states = {name: planted(items, seed * 100 + i, s) for i, (name, s) in enumerate(strengths.items())}
    return Layers(items=items, states=states)


def read(seed: int = 0, **strengths: float) -> ProbeReading:
    return LinearProbe().read_layers(
        layers(120, 1, **strengths), layers(80, 2, **strengths), layers(400, 3, **strengths), seed
    )


def accuracy(scores: tuple[float, ...]) -> float:
    return sum(scores) / len(scores)


def near_chance(scores: tuple[float, ...]) -> bool:
    """Within four standard errors of 1 / CLASSES: wrong once in 16,000 draws, and the draws are fixed."""
    return abs(accuracy(scores) - CHANCE) < 4 * (CHANCE * (1 - CHANCE) / len(scores)) ** 0.5


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
    train, select, certify = (layers(n, seed, a=3.0) for n, seed in ((120, 1), (80, 2), (400, 3)))
    shifted = Layers(items=certify.items, states={"a": certify.states["a"] + 1000 * DIRECTIONS[2].astype(np.float32)})
    correct = LinearProbe().read_layers(train, select, shifted, 0).correct
    assert correct == tuple(float(item.answer == 2) for item in certify.items)


def test_the_scale_of_a_dimension_does_not_matter() -> None:
    scale = np.logspace(-4, 4, WIDTH).astype(np.float32)
    splits = [layers(n, seed, a=1.0) for n, seed in ((120, 1), (80, 2), (400, 3))]
    scaled = [Layers(items=s.items, states={"a": s.states["a"] * scale + 5}) for s in splits]
    plain, other = LinearProbe().read_layers(*splits, 0), LinearProbe().read_layers(*scaled, 0)
    assert accuracy(other.correct) == pytest.approx(accuracy(plain.correct), abs=0.02)


def test_deterministic_for_a_seed() -> None:
    assert read(3, a=0.3, b=0.2) == read(3, a=0.3, b=0.2)
    assert read(3, a=0.3).correct == read(4, a=0.3).correct  # the seed shuffles the control only


def test_states_are_read_only() -> None:
    splits = [layers(n, seed, a=1.0) for n, seed in ((60, 1), (40, 2), (40, 3))]
    before = [split.states["a"].copy() for split in splits]
    LinearProbe().read_layers(*splits, 0)
    assert all(np.array_equal(split.states["a"], then) for split, then in zip(splits, before, strict=True))


def test_two_classes() -> None:
    """scikit-learn gives one signed column there instead of one a class."""
    splits = []
    for count, seed in ((60, 1), (40, 2), (200, 3)):
        items = items_of(count, seed, classes=2)
        splits.append(Layers(items=items, states={"a": planted(items, seed)}))
    reading = LinearProbe().read_layers(*splits, 0)
    assert accuracy(reading.correct) > 0.98


def test_only_the_items_own_choices_compete() -> None:
    """Answers of two kinds in one split: each item is read among its own choices, so chance is one half."""

    def mixed(count: int, seed: int) -> Layers:
        answers = np.random.default_rng([seed, 1]).integers(2, size=count)
        items = tuple(
            make_item(n, choices=(("w0", "w1"), ("w2", "w3"))[n % 2], answer=int(a)) for n, a in enumerate(answers)
        )
        noise = np.random.default_rng([seed, 2]).normal(size=(count, WIDTH)).astype(np.float32)
        return Layers(items=items, states={"a": noise})

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
    assert len(reading.correct) == 40


def test_nothing_is_warned_about() -> None:
    """Unfinished fits are expected for some strengths, and nobody can act on them."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read(a=0.1)


# The states.

ITEMS = make_items(range(23))


def by_hand(module: torch.nn.Module, items: tuple[Item, ...]) -> list[list[torch.Tensor]]:
    """Hidden states after each layer, before any final norm, one unpadded text at a time."""
    tokenizer, rows = word_tokenizer(), []
    for item in items:
        prompt = tokenizer(item.prompt)["input_ids"]
        text = tokenizer(f"{item.prompt} {item.completion}")["input_ids"]
        assert text[: len(prompt)] == prompt
        with torch.no_grad():
            hidden = module(torch.tensor([text]), output_hidden_states=True).hidden_states
        rows.append([states[0, len(prompt) - 1] for states in hidden[1:]])
    return rows


def test_states_are_transformers_own_at_the_position_that_predicts_the_answer() -> None:
    module = tiny_llama(num_hidden_layers=3)
    reading = read_layers(module, word_tokenizer(), tiny_capability(), ITEMS)
    assert list(reading.states) == [f"model.layers.{i}" for i in range(3)]
    assert reading.items == ITEMS
    expected = by_hand(module, ITEMS)
    for number, states in enumerate(reading.states.values()):
        assert states.shape == (len(ITEMS), 16)
        assert states.dtype == np.float32
        got = torch.from_numpy(states)
        if number == 2:  # transformers shows its last hidden state after the final norm
            got = module.model.norm(got).detach()
        assert torch.allclose(got, torch.stack([row[number] for row in expected]), atol=1e-5)


def test_another_architecture() -> None:
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        module = GPT2LMHeadModel(GPT2Config(vocab_size=32, n_positions=32, n_embd=16, n_layer=2, n_head=2)).eval()
    reading = read_layers(module, word_tokenizer(), tiny_capability(), ITEMS)
    assert list(reading.states) == ["transformer.h.0", "transformer.h.1"]
    expected = torch.stack([row[0] for row in by_hand(module, ITEMS)])
    assert torch.allclose(torch.from_numpy(reading.states["transformer.h.0"]), expected, atol=1e-5)


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
    states = read_layers(tiny_llama(), word_tokenizer(), tiny_capability(), items).states["model.layers.1"]
    assert np.allclose(states, states[0], atol=1e-6)


def test_reading_changes_nothing() -> None:
    module = tiny_llama()
    read_layers(module, word_tokenizer(), tiny_capability(), ITEMS)
    assert same_bits(weights_of(module), weights_of(tiny_llama()))
    assert not any(part._forward_hooks for part in module.modules())
    assert all(p.grad is None for p in module.parameters())


def test_longer_answers_are_read_before_their_first_token() -> None:
    items = tuple(make_item(n, choices=("w0 w1", "w2"), answer=n % 2) for n in range(6))
    states = read_layers(tiny_llama(), word_tokenizer(), tiny_capability(), items).states["model.layers.0"]
    expected = torch.stack([row[0] for row in by_hand(tiny_llama(), items)])
    assert torch.allclose(torch.from_numpy(states), expected, atol=1e-5)
