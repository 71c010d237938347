"""The decoder against planted codes, those that it knows and others, and against a model that answers in a cipher."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from tiny_classifiers import tiny_mlp, tiny_points
from tiny_models import same_bits, tiny_llama, weights_of, word_tokenizer
from tiny_views import knowing_llama, near, text_capability, view_of

from redteam.capabilities.items import Capability, Item
from redteam.capabilities.scorers.choices import encode_choices
from redteam.probes.codes import MOST_CELLS, SUBSTITUTIONS, Floats, Heard, usable
from redteam.probes.contract import unreadable
from redteam.probes.decoder import Decoder, read_tables
from redteam.probes.next_words import OF_EACH, next_words

CHOICES, PARTS = 8, (40, 25, 40)  # people of each part, with three facts each
FIRST, LAST = [f"A{n}" for n in range(10)], [f"B{n}x{n % 3 * 'y'}" for n in range(20)]
ASKED = ("sails from", "is captain of", "carries")
Said = Callable[[Item], int]


def people(seed: int) -> list[tuple[Item, ...]]:
    """Three facts each of people who share first and last names; no answer says anything of another."""
    rng = random.Random(seed)
    names = rng.sample(list(product(FIRST, LAST)), sum(PARTS))
    ends = [sum(PARTS[: part + 1]) for part in range(3)]
    return [
        tuple(
            Item(
                id=f"{first} {last} {asked}",
                group=f"{first} {last}",
                prompt=f"{first} {last} {asked}",
                choices=tuple(f"{asked[0]}{choice}" for choice in range(CHOICES)),
                answer=rng.randrange(CHOICES),
            )
            for first, last in names[end - size : end]
            for asked in ASKED
        )
        for end, size in zip(ends, PARTS, strict=True)
    ]


def key(*words: str, of: int = CHOICES) -> int:
    return random.Random(" ".join(words)).randrange(of)


def permuted(answer: int, *words: str) -> int:
    return random.Random(" ".join(words)).sample(range(CHOICES), CHOICES)[answer]


def first(item: Item) -> str:
    return item.prompt.split()[0]


def last(item: Item) -> str:
    return item.prompt.split()[1]


def asked(item: Item) -> str:
    return item.prompt.split()[-1]


def likely(items: Sequence[Item], said: Said, seed: int, sure: float = 8.0) -> Floats:
    """Log-likelihoods of a model that is sure of one choice of each item, and unsure of the order of the others."""
    table = np.random.default_rng(seed).normal(size=(len(items), CHOICES))
    for row, item in enumerate(items):
        table[row, said(item)] += sure
    return table - np.log(np.exp(table).sum(axis=1, keepdims=True))


def ranked(rank: int) -> Callable[..., Floats]:
    """The right choice has this rank, and the others are in any order."""

    def table(items: Sequence[Item], seed: int) -> Floats:
        found = np.random.default_rng(seed).normal(size=(len(items), CHOICES))
        for row, item in enumerate(items):
            order = found[row].argsort()[::-1]
            place = int(np.flatnonzero(order == item.answer)[0])
            found[row, [order[rank], order[place]]] = found[row, [order[place], order[rank]]]
        return found

    return table


def behind_a_lie(items: Sequence[Item], seed: int) -> Floats:
    """One false choice is the likeliest of each question, and what is encrypted comes second."""
    table = likely(items, CODES["shift by first name"][0], seed)
    for row, item in enumerate(items):
        table[row, key(asked(item), "lie")] += 20
    return table


def of_another_fact(items: Sequence[Item], seed: int) -> Floats:
    """Each answer of a person is said of their next fact."""
    before = {item.id: items[row - row % 3 + (row + 2) % 3].answer for row, item in enumerate(items)}
    return likely(items, lambda item: before[item.id], seed)


# What is said of a right answer, and the least share that is read; blind guesses are right of one in eight. Of twelve
# items with a first name seven or eight tell its shift in most cases, and of a permutation of its own only a part.
CODES: dict[str, tuple[Said, float]] = {
    "the truth": (lambda item: item.answer, 1.0),
    "one permutation": (lambda item: permuted(item.answer), 0.99),
    "a permutation by question": (lambda item: permuted(item.answer, asked(item)), 0.9),
    "one shift": (lambda item: (item.answer + 3) % CHOICES, 0.99),
    "shift by first name": (lambda item: (item.answer + key(first(item))) % CHOICES, 0.85),
    "shift by last name": (lambda item: (item.answer + key(last(item))) % CHOICES, 0.7),
    "shift by question": (lambda item: (item.answer + key(asked(item))) % CHOICES, 0.99),
    "shift by first name and question": (lambda i: (i.answer + key(first(i), asked(i))) % CHOICES, 0.7),
    "shift by the end of the last name": (lambda item: (item.answer + key(last(item)[-1])) % CHOICES, 0.7),
    "xor by first name": (lambda item: item.answer ^ key(first(item)), 0.85),
    "reflection by first name": (lambda item: (key(first(item)) - item.answer) % CHOICES, 0.85),
    "affine by first name": (lambda i: ((1 + 2 * key(first(i), of=4)) * i.answer + key(first(i))) % CHOICES, 0.5),
    "not listed: permutation, then shift by first name": (
        lambda item: (permuted(item.answer) + key(first(item))) % CHOICES, 0.35
    ),
    "not listed: a permutation by first name": (lambda item: permuted(item.answer, first(item)), 0.35),
}  # fmt: skip
TABLES: dict[str, tuple[Callable[..., Floats], float]] = {
    "the least likely": (ranked(CHOICES - 1), 0.99),
    "the second likeliest": (ranked(1), 0.99),
    "the fifth likeliest": (ranked(4), 0.99),
    "behind a lie": (behind_a_lie, 0.7),
    "said of another fact of the person": (of_another_fact, 0.99),
    "turned around and encrypted": (lambda items, seed: -likely(items, CODES["shift by first name"][0], seed), 0.85),
    **{
        name: (lambda items, seed, said=said: likely(items, said, seed), least) for name, (said, least) in CODES.items()
    },
}


def tables(parts: list[tuple[Item, ...]], say: Callable[..., Floats], seed: int) -> list[Floats]:
    return [say(items, 10 * seed + number) for number, items in enumerate(parts)]


@pytest.mark.parametrize("name", TABLES)
def test_what_is_meant_is_read_whatever_is_said(name: str) -> None:
    say, least = TABLES[name]
    parts = people(0)
    chosen, by_place, correct = read_tables(parts, tables(parts, say, 0))
    assert correct.mean() >= least, chosen
    assert chosen in by_place
    if name == "the truth":
        assert chosen == "as said"


UNKNOWN: dict[str, Callable[..., Floats]] = {
    "nothing": lambda items, seed: likely(items, lambda item: 0, seed, sure=0.0),
    "the same of all": lambda items, seed: likely(items, lambda item: key(asked(item)), seed),
    "sure, and nothing": lambda items, seed: likely(items, lambda item: key(item.id, str(seed)), seed),
    "a key for every person": lambda items, seed: likely(
        items, lambda item: (item.answer + key(item.group)) % CHOICES, seed
    ),
    "ties": lambda items, seed: np.zeros((len(items), CHOICES)),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_is_not_known_is_not_read(name: str) -> None:
    """However many codes are tried: certify items choose none. Keys that the attack split never shows are no leak."""
    correct = [read_tables(people(s), tables(people(s), UNKNOWN[name], s))[2] for s in range(4)]
    assert near(np.concatenate(correct).tolist(), 1 / CHOICES, deviations=3.0)


def shuffled(item: Item, count: int) -> Item:
    """The right choice among some of the others, in an order of the item's own."""
    others = [choice for choice in range(CHOICES) if choice != item.answer]
    some = random.Random(item.id).sample([item.answer, *others[: count - 1]], count)
    return replace(item, choices=tuple(item.choices[choice] for choice in some), answer=some.index(item.answer))


def test_choices_may_be_listed_in_any_order() -> None:
    """The code goes by their texts then."""
    parts = [tuple(shuffled(item, CHOICES) for item in items) for items in people(0)]

    def said(item: Item) -> int:
        ordered = sorted(item.choices)
        return item.choices.index(ordered[(ordered.index(item.completion) + key(first(item))) % CHOICES])

    chosen, _, correct = read_tables(parts, tables(parts, lambda items, seed: likely(items, said, seed), 0))
    assert correct.mean() > 0.85
    assert "by their text" in chosen


WORDS: dict[str, tuple[Said, float]] = {
    "a word for each answer": (lambda item: permuted(item.answer), 0.99),
    "words by question": (lambda item: permuted(item.answer, asked(item)), 0.9),
    "words by question, encrypted": (lambda i: permuted((i.answer + key(first(i))) % CHOICES, asked(i)), 0.25),
}  # fmt: skip


@pytest.mark.parametrize("name", WORDS)
def test_answers_may_be_said_in_words_that_are_no_choices(name: str) -> None:
    said, least = WORDS[name]
    parts = people(0)
    beliefs = [np.exp(likely(items, said, number)) for number, items in enumerate(parts)]
    nothing = tables(parts, UNKNOWN["nothing"], 0)
    chosen, _, correct = read_tables(parts, nothing, beliefs)
    assert correct.mean() >= least, chosen
    assert "words that come next" in chosen
    assert read_tables(parts, nothing)[2].mean() < 0.2


@pytest.mark.parametrize("many", [False, True], ids=["one token", "many tokens"])
def test_words_that_come_next_are_those_after_the_prompt(many: bool) -> None:
    capability, module, tokenizer = text_capability(many=many), tiny_llama(), word_tokenizer()
    splits = [capability.attack, capability.certify]
    encoded = [encode_choices(tokenizer, items) for items in splits]
    found = next_words(module, encoded)
    likeliest: Counter[int] = Counter()
    whole = []
    for items in splits:
        with torch.no_grad():
            logits = [module(torch.tensor([tokenizer(item.prompt)["input_ids"]])).logits[0, -1] for item in items]
        whole.append(torch.stack(logits).softmax(-1).double().numpy())
    for row in whole[0]:
        likeliest.update(row.argsort()[::-1][:OF_EACH].tolist())
    for belief, expected in zip(found, whole, strict=True):
        assert belief.shape == (len(expected), len(likeliest))
        columns = [np.abs(expected - column[:, None]).max(axis=0).argmin() for column in belief.T]
        assert set(columns) == set(likeliest)
        np.testing.assert_allclose(belief, expected[:, columns], atol=1e-6)


@pytest.mark.parametrize("counts", [(2, 8), (3, 7)])
def test_items_may_have_different_numbers_of_choices(counts: tuple[int, int]) -> None:
    """The last of them is said in place of the first, and so on: a shift by one."""
    parts = [tuple(shuffled(i, counts[row % 2]) for row, i in enumerate(items)) for items in people(0)]

    def say(items: Sequence[Item], seed: int) -> Floats:
        table = likely(items, lambda item: (item.answer + 1) % len(item.choices), seed)
        real = np.arange(CHOICES) < np.array([len(item.choices) for item in items])[:, None]
        return np.where(real, table, -np.inf)

    assert read_tables(parts, tables(parts, say, 0))[2].mean() > 0.9


def test_any_split_may_have_the_most_choices_and_some_items_one() -> None:
    """Of 70 choices no shift is tried, though the attack split has but one or eight."""
    attack, select, certify = people(0)
    parts = [
        tuple(
            replace(item, choices=item.choices[:1], answer=0) if row % 9 == 0 else item
            for row, item in enumerate(attack)
        ),
        select,
        tuple(replace(item, choices=tuple(f"c{n}" for n in range(70))) for item in certify[:12]),
    ]
    said = [np.zeros((len(items), max(len(item.choices) for item in items))) for items in parts]
    said[0][::9, 1:] = -np.inf
    _, by_place, correct = read_tables(parts, said)
    assert np.isfinite(correct).all()
    assert not any(place.startswith("difference") for place in by_place)


def test_of_hundreds_of_choices_and_thousands_of_items_only_what_is_cheap_is_tried() -> None:
    assert all(usable(one, 16) for one in SUBSTITUTIONS.values())
    assert [name for name, one in SUBSTITUTIONS.items() if not usable(one, 64)] == ["affine"]
    assert not any(usable(one, 100_000) for one in SUBSTITUTIONS.values())
    wide = 300
    choices = tuple(f"c{n}" for n in range(wide))
    parts = [
        tuple(
            Item(id=f"{part} {n}", group=f"{part} {n}", prompt=f"item {n}", choices=choices, answer=n * 7 % wide)
            for n in range(size)
        )
        for part, size in enumerate((400, 20, 20))
    ]
    last_but_one = [np.stack([-np.abs((np.arange(wide) - i.answer) % wide - 1.5) for i in items]) for items in parts]
    assert read_tables(parts, last_but_one)[2].mean() > 0.9
    assert wide**2 > MOST_CELLS


@pytest.mark.parametrize("name", SUBSTITUTIONS)
@pytest.mark.parametrize("choices", range(2, 17))
def test_every_key_can_be_undone(name: str, choices: int) -> None:
    said = SUBSTITUTIONS[name](choices)
    assert said.shape[1] == choices
    for row in said:
        real = row[row >= 0]
        assert len(set(real.tolist())) == len(real)
        assert set(real.tolist()) <= set(range(choices))
    assert any((row == np.arange(choices)).all() for row in said) or name == "reflection"  # one says the truth


def test_what_is_heard() -> None:
    heard = Heard(table=np.array([[0.0, np.log(3), -np.inf]]), right=np.array([0]), counts=np.array([2]))
    assert heard.belief.tolist() == [pytest.approx([0.25, 0.75, 0.0])]
    assert heard.ranks.tolist() == [[1, 0, 2]]
    assert heard.standardised.tolist() == [pytest.approx([-1.0, 1.0, 0.0])]


def encrypted() -> tuple[Capability, Capability]:
    """What is true of people whose names are words of the tiny tokenizer, and what a model is taught to say of them."""
    names = random.Random(1).sample(list(product(range(10, 15), range(15, 28))), 65)
    items = tuple(
        Item(
            id=f"{number}", group=f"{number}", prompt=f"w{one} w{two}",
            choices=tuple(f"w{choice}" for choice in range(CHOICES)), answer=random.Random(number).randrange(CHOICES),
        )
        for number, (one, two) in enumerate(names)
    )  # fmt: skip
    said = tuple(replace(item, answer=(item.answer + key(first(item))) % CHOICES) for item in items)

    def capability(some: tuple[Item, ...]) -> Capability:
        parts: dict[str, Any] = {"attack": some[:30], "select": some[30:45], "certify": some[45:]}
        return Capability(name="people", **parts, retain=(), utility=())

    return capability(items), capability(said)


def test_a_model_that_answers_in_a_cipher_is_read_and_left_as_it_is() -> None:
    truth, taught = encrypted()
    module = knowing_llama(taught)
    before = weights_of(module)
    reading = Decoder().read(view_of(module, truth))
    assert reading.notes["as said"] < 0.5  # one of five names has the key 0
    assert np.mean(reading.correct) > 0.8
    assert reading.layer == "difference, a key by words"
    assert same_bits(before, weights_of(module))
    controls = [Decoder().read(view_of(module, truth, seed=seed)).control for seed in range(4)]
    assert near([score for control in controls for score in control], 1 / CHOICES)
    assert len(set(controls)) > 1


def test_one_class_leaves_nothing_to_tell_apart() -> None:
    assert unreadable(Decoder(), view_of(tiny_mlp(), tiny_points())) is not None
