"""The promises of a scorer: a good one keeps them all, and each is broken by a scorer that breaks it alone."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from redteam.capabilities.scorers.choice import Choice
from redteam.capabilities.scorers.cloze import Cloze
from redteam.capabilities.scorers.contract import NotFinite
from redteam.engine.batches import TokenSet
from redteam.testing import SCORER_PROMISES, BrokenPromise, BrokenPromises, check_scorer
from redteam.testing.scored import worlds_of


@dataclass(frozen=True, slots=True)
class Encoded:
    """What `choice` encodes, for scorers that change a part of it."""

    inner: Any

    def __len__(self) -> int:
        return len(self.inner)

    @property
    def tokens(self) -> Sequence[TokenSet]:
        return self.inner.tokens

    @property
    def chance(self) -> np.ndarray:
        return self.inner.chance

    def table(self, module: nn.Module) -> Tensor:
        return self.inner.table(module)

    def scores(self, table: Tensor) -> np.ndarray:
        return self.inner.scores(table)


class Good:
    """Scores as `choice` does; a part of what it encodes can be another."""

    name = "good"
    version = 1
    goal = "is the right choice the likeliest?"
    paper = "none: for tests"
    kinds = "language, classifier"
    needs = "choices"
    encoded: Any = Encoded

    def encode(self, capability: Any, items: Any, tokenizer: Any) -> Any:
        return self.encoded(Choice().encode(capability, items, tokenizer))

    def chance(self, items: Any) -> Any:
        return Choice().chance(items)

    def constant(self, known: Any, asked: Any) -> float:
        return Choice().constant(known, asked)


def broken_by(scorer: Any) -> dict[str, str]:
    """Which promises a scorer breaks, each checked by itself."""
    found = {}
    for name, promise in SCORER_PROMISES.items():
        try:
            promise(scorer)
        except BrokenPromise as error:
            found[name] = str(error)
    return found


def test_a_good_scorer_keeps_all_promises() -> None:
    check_scorer(Good())
    assert broken_by(Good()) == {}


def test_items_are_of_unequal_lengths_and_numbers_of_choices() -> None:
    language, classifier = worlds_of(Choice())
    assert {len(item.choices) for item in language.items} == {2, 3, 4}
    assert {len(choice.split()) for item in language.items for choice in item.choices} == {1, 2}
    assert {len(item.choices) for item in classifier.items} == {4}
    (alone,) = worlds_of(Cloze())
    assert {len(item.choices) for item in alone.items} == {1}


def said(**facts: Any) -> Any:
    """A good scorer that says something else of itself."""
    return type("Said", (Good,), facts)()


def encoding(**parts: Any) -> Any:
    """A good scorer whose encoded items have other parts."""
    return said(encoded=type("Other", (Encoded,), parts))


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        ({"name": "My Scorer"}, "its name is 'My Scorer'. Use lower-case letters"),
        ({"version": 0}, "its version is 0"),
        ({"goal": ""}, "its goal is ''"),
        ({"paper": "two\nlines"}, "its paper is 'two\\nlines'"),
        ({"kinds": "images"}, "its kinds are 'images'. Use one of"),
        ({"needs": "luck"}, "it needs 'luck'. Use one of 'choices', 'answer', 'choices, premise', 'answer, premise'"),
        ({"encode": None}, "it has no method 'encode'"),
        ({"constant": 3}, "it has no method 'constant'"),
    ],
)
def test_what_nothing_else_can_be_seen_without(facts: dict[str, Any], says: str) -> None:
    with pytest.raises(BrokenPromises) as caught:
        check_scorer(said(**facts))
    assert caught.value.broken.keys() == {"says-what-it-is"}
    assert str(caught.value).startswith("Said breaks 1 of the promises of a scorer:\n- says-what-it-is: ")
    assert says in str(caught.value)


def of_all(change: Any) -> Any:
    """Scores of `choice`, changed."""
    return lambda self, table: change(self.inner.scores(table))


def of_odd_places_less(scores: np.ndarray) -> np.ndarray:
    return np.where(np.arange(len(scores)) % 2, 0.9, 1.0) * scores


def drawn(self: Any, module: nn.Module) -> Tensor:
    table = self.inner.table(module)
    return table + 1e-6 * torch.rand(table.shape)


def with_gradient(self: Any, module: nn.Module) -> Tensor:
    return self.inner.table(module).requires_grad_()


def in_training(self: Any, module: nn.Module) -> Tensor:
    table = self.inner.table(module)
    module.train()
    return table


def with_a_hook(self: Any, module: nn.Module) -> Tensor:
    module.register_forward_hook(lambda *_: None)
    return self.inner.table(module)


def writes_a_weight(self: Any, module: nn.Module) -> Tensor:
    table = self.inner.table(module)
    with torch.no_grad():
        next(iter(module.parameters())).view(-1)[0] += 1e-6
    return table


def seeds_python(self: Any, module: nn.Module) -> Tensor:
    random.seed(0)
    return self.inner.table(module)


def whatever_it_says(self: Any, module: nn.Module) -> Tensor:
    try:
        return self.inner.table(module)
    except NotFinite:
        return torch.zeros(len(self), 4)


def raises_another(self: Any, module: nn.Module) -> Tensor:
    try:
        return self.inner.table(module)
    except NotFinite as error:
        raise ValueError("no number") from error


BLIND = {"scores": lambda self, table: np.array(self.inner.chance)}


@pytest.mark.parametrize(
    ("scorer", "promise", "says"),
    [
        (encoding(scores=of_all(lambda s: s * (1 + 1e-9))), "scores-every-item", "it gives a score of 1, which is not"),
        (encoding(scores=of_all(lambda s: s.astype(np.float32))), "scores-every-item", "its scores are float32"),
        (encoding(table=lambda self, m: self.inner.table(m).double()), "scores-every-item", "its table is float64"),
        (encoding(table=with_gradient), "scores-every-item", "its table is float32 with a gradient. Return float32"),
        (said(constant=lambda *_: 2.0), "says-its-chance", "a constant answer scores 2. Return a number in [0, 1]"),
        (said(constant=lambda *_: math.nan), "says-its-chance", "a constant answer scores nan"),
        (said(constant=lambda *_: 1 / 0), "says-its-chance", "constant raised ZeroDivisionError"),
        (encoding(chance=property(lambda self: self.inner.chance / 2)), "says-its-chance", "has another chance than"),
        (
            said(
                chance=lambda self, items: [0.9] * len(items),
                encoded=type("Sure", (Encoded,), {"chance": property(lambda self: np.full(len(self), 0.9))}),
            ),
            "is-at-chance-where-nothing-is-known",
            "models that know nothing score 0.41 on average, it says that chance is 0.90",
        ),
        (encoding(**BLIND), "tells-who-knows", "and 0.35 once it knows the answers. Let a score rise with"),
        (encoding(scores=of_all(of_odd_places_less)), "scores-each-item-by-itself", "something else in another"),
        (encoding(table=drawn), "is-the-same-twice", "asked again the same model says something else"),
        (encoding(table=in_training), "leaves-the-model-alone", "it changes the mode of "),
        (encoding(table=with_a_hook), "leaves-the-model-alone", "it leaves a hook on the module"),
        (encoding(table=writes_a_weight), "leaves-the-model-alone", "it changes model.embed_tokens.weight"),
        (encoding(table=seeds_python), "leaves-the-model-alone", "it changes the state of `random`"),
        (encoding(table=whatever_it_says), "refuses-what-is-not-finite", "it scores a model that says NaN"),
        (encoding(table=raises_another), "refuses-what-is-not-finite", "it raises ValueError: no number. Raise NotFin"),
        (encoding(tokens=()), "shows-all-that-is-read", "tokens, the longest text in `tokens` has 0. Show every"),
    ],
)  # fmt: skip
def test_a_promise_is_broken_alone(scorer: Any, promise: str, says: str) -> None:
    found = broken_by(scorer)
    assert found.keys() == {promise}
    assert says in found[promise]


@pytest.mark.parametrize(
    ("chance", "says"),
    [
        (lambda self, items: [0.25], "chance is not a number in [0, 1] for every item"),
        (lambda self, items: [1.5] * len(items), "chance is not a number in [0, 1] for every item"),
        (lambda self, items: 1 / 0, "chance raised ZeroDivisionError"),
    ],
)
def test_a_chance_that_is_none(chance: Any, says: str) -> None:
    assert says in broken_by(said(chance=chance))["says-its-chance"]


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ({"table": lambda self, module: 1 / 0}, "table raised ZeroDivisionError"),
        ({"table": lambda self, module: self.inner.table(module)[:3]}, "its table has the shape (3, "),
        ({"table": lambda self, module: self.inner.table(module)[:, 0]}, "its table has the shape (44,)"),
    ],
)
def test_a_table_that_is_none_ends_the_check(parts: dict[str, Any], says: str) -> None:
    with pytest.raises(BrokenPromises) as caught:
        check_scorer(encoding(**parts))
    assert caught.value.broken.keys() == {"scores-every-item"}
    assert says in str(caught.value)


def test_one_that_works_on_one_kind_is_checked_on_that_alone() -> None:
    def needs_tokens(self: Any, module: nn.Module) -> Tensor:
        assert self.tokens
        return self.inner.table(module)

    assert "scores-every-item" in broken_by(encoding(table=needs_tokens))
    assert broken_by(said(kinds="language", encoded=type("T", (Encoded,), {"table": needs_tokens}))) == {}


def test_a_premise_is_there_for_whatever_needs_one() -> None:
    seen: list[Any] = []

    def encode(self: Any, capability: Any, items: Any, tokenizer: Any) -> Any:
        seen.append(capability.premise)
        return Encoded(Choice().encode(capability, items, tokenizer))

    SCORER_PROMISES["scores-every-item"](said(needs="choices, premise", kinds="language", encode=encode))
    SCORER_PROMISES["scores-every-item"](said(encode=encode))
    assert seen == ["always eats"] * 2 + [None] * 4


def test_the_model_of_a_check_is_a_new_one_each_time() -> None:
    """One scorer that damages its model does not fail the next."""
    assert broken_by(encoding(table=writes_a_weight)).keys() == {"leaves-the-model-alone"}
    assert broken_by(Good()) == {}
