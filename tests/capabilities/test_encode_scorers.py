from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import make_item, make_items, merging_tokenizer, tiny_llama, word_tokenizer
from torch import Tensor, nn

from redteam.capabilities.encode import encode_answers
from redteam.capabilities.items import Item
from redteam.capabilities.scorers import choices as choices_module
from redteam.capabilities.scorers import likelihood
from redteam.capabilities.scorers.choices import EncodedChoices, encode_choices
from redteam.capabilities.scorers.contract import NotFinite, item_scores
from redteam.engine.batches import IGNORED, TokenSet
from redteam.errors import InputError

LONG = ("w0 w1", "w2", "w3 w5 w6", "w1 w0")  # choices of unequal length


@torch.no_grad()
def naive(module: nn.Module, tokenizer, item: Item, *, boundary: int | None = None) -> list[float]:
    """log p of each choice's tokens after the prompt's, one unpadded sequence at a time, summed in float64."""
    values = []
    for choice in item.choices:
        ids = tokenizer(f"{item.prompt} {choice}")["input_ids"]
        start = len(tokenizer(item.prompt)["input_ids"]) if boundary is None else boundary
        table = module(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)
        values.append(sum(table[position - 1, ids[position]].item() for position in range(start, len(ids))))
    return values


def as_many_tokens(encoded: EncodedChoices) -> EncodedChoices:
    """The same items in the general form: one sequence per choice."""
    sequences, starts, owner = [], [], []
    for item in range(len(encoded)):
        prompt = encoded.rows.input_ids[item, : encoded.rows.lengths[item]].tolist()
        for choice in encoded.single[item, : encoded.counts[item]].tolist():
            sequences.append([*prompt, choice])
            starts.append(len(prompt))
            owner.append(item)
    rows = TokenSet.from_sequences(sequences, starts, pad=28)
    return EncodedChoices(rows, None, torch.tensor(owner), encoded.counts, encoded.answers, torch.tensor(starts) - 1)


# Every comparison of likelihoods below allows 1e-5: float32 forward passes of different shapes.


@pytest.mark.parametrize("template", ["$A", "<s> $A"])
def test_fast_path_equals_the_general_path(template):
    module = tiny_llama()
    encoded = encode_choices(word_tokenizer(template), make_items(range(30)))
    assert encoded.single is not None
    fast = encoded.table(module)
    general = as_many_tokens(encoded).table(module)
    assert torch.allclose(fast, general, rtol=0, atol=1e-5)
    assert np.array_equal(item_scores(module, encoded), item_scores(module, as_many_tokens(encoded)))


@pytest.mark.parametrize("template", ["$A", "<s> $A", "<s> $A </s>", "$A </s>"])
@pytest.mark.parametrize("choices", [("w0", "w1", "w2"), LONG])
def test_likelihoods_equal_a_naive_loop(template, choices):
    """An end token that the tokenizer puts after every text stands between no prompt and its choice."""
    module = tiny_llama()
    items = [make_item(n, choices=choices[: 2 + n % 3], answer=n) for n in range(12)]
    encoded = encode_choices(word_tokenizer(template), items)
    assert (encoded.single is None) == (choices is LONG)
    table = encoded.table(module)
    plain = word_tokenizer(template.removesuffix(" </s>"))
    for row, item in enumerate(items):
        count = len(item.choices)
        assert table[row, :count].tolist() == pytest.approx(naive(module, plain, item), abs=1e-5)
        assert torch.isneginf(table[row, count:]).all()


@pytest.mark.parametrize("choices", [("c", "d"), ("c", "e"), ("d", "a", "c e")])
def test_a_tokenizer_that_merges_across_the_boundary(choices):
    """ "ab" + " c" becomes a, "b c": the whole of "b c" is compared, since "b" itself is nowhere in it."""
    tokenizer, module = merging_tokenizer(), tiny_llama()
    assert tokenizer.convert_ids_to_tokens(tokenizer("ab c")["input_ids"]) == ["a", "b c"]
    item = Item(id="0", group="0", prompt="ab", choices=choices, answer=0)
    encoded = encode_choices(tokenizer, [item])
    assert (encoded.single is not None) == (choices == ("c", "e"))
    found = encoded.table(module)[0]
    assert found.tolist() == pytest.approx(naive(module, tokenizer, item, boundary=1), abs=1e-5)
    answers = encode_answers(tokenizer, [item])
    whole = tokenizer(f"ab {choices[0]}")["input_ids"]
    assert answers.input_ids[0].tolist() == whole
    assert answers.labels[0].tolist() == [IGNORED, *whole[1:]]


def test_items_of_one_set_may_differ_in_their_boundary():
    tokenizer, module = merging_tokenizer(), tiny_llama()
    items = [
        Item(id="0", group="0", prompt="ab", choices=("c", "d"), answer=0),  # merges
        Item(id="1", group="1", prompt="dda", choices=("c", "b c"), answer=1),  # does not
    ]
    table = encode_choices(tokenizer, items).table(module)
    for row, boundary in ((0, 1), (1, 4)):  # in the second the space is common to both choices
        wanted = naive(module, tokenizer, items[row], boundary=boundary)
        assert (table[row, 0] - table[row, 1]).item() == pytest.approx(wanted[0] - wanted[1], abs=1e-5)


@pytest.mark.parametrize("batch", [1, 3, 7])
@pytest.mark.parametrize("choices", [("w0", "w1", "w2"), LONG])
def test_scores_do_not_depend_on_the_batch(batch, choices, monkeypatch):
    module = tiny_llama()
    encoded = encode_choices(word_tokenizer(), [make_item(n, choices=choices, answer=n) for n in range(20)])
    whole = encoded.table(module)
    for module_that_reads in (choices_module, likelihood):
        monkeypatch.setattr(module_that_reads, "SCORING_BATCH", batch)
    assert torch.allclose(encoded.table(module), whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize("choices", [("w0", "w1"), LONG])
def test_the_tokenizers_padding_plays_no_part(choices):
    items = [make_item(n, choices=choices, answer=n) for n in range(8)]
    right, left = word_tokenizer(), word_tokenizer()
    left.padding_side, left.pad_token = "left", "w7"
    module = tiny_llama()
    one, other = (encode_choices(t, items).table(module) for t in (right, left))
    assert torch.allclose(one, other, rtol=0, atol=1e-5)


def test_a_tokenizer_without_padding_token_will_do():
    tokenizer = word_tokenizer()
    tokenizer.pad_token = None
    items = make_items(range(8))
    with_pad = encode_choices(word_tokenizer(), items).table(tiny_llama())
    without = encode_choices(tokenizer, items).table(tiny_llama())
    assert torch.allclose(with_pad, without, rtol=0, atol=1e-5)


class Fixed(nn.Module):
    """A model whose logits after any prompt are given."""

    def __init__(self, logits: list[float]) -> None:
        super().__init__()
        self.logits = torch.full((32,), -50.0)
        self.logits[: len(logits)] = torch.tensor(logits)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None, use_cache: bool) -> SimpleNamespace:
        return SimpleNamespace(logits=self.logits.expand(*input_ids.shape, -1))


@settings(max_examples=60)
@given(st.lists(st.sampled_from([0.0, 1.0, 2.0]), min_size=4, max_size=4), st.integers(0, 3))
def test_a_tie_shares_the_point(logits, answer):
    encoded = encode_choices(word_tokenizer(), [make_item(0, answer=answer)])
    best = max(logits)
    wanted = (logits[answer] == best) / logits.count(best)
    assert item_scores(Fixed(logits), encoded).tolist() == [wanted]
    assert item_scores(Fixed(logits), as_many_tokens(encoded)).tolist() == [wanted]


def test_a_model_that_cannot_tell_is_at_chance_for_each_number_of_choices():
    items = [make_item(n, choices=("w0", "w1", "w2", "w3")[: 2 + n % 3], answer=n) for n in range(9)]
    scores = item_scores(Fixed([1.0] * 4), encode_choices(word_tokenizer(), items))
    assert scores.tolist() == [1 / len(item.choices) for item in items]
    assert scores.dtype == np.float64


def test_unknown_words_are_no_advantage():
    """Choices that the tokenizer cannot tell apart are a tie, whichever is right."""
    items = [make_item(0, choices=("north", "south", "east"), answer=n) for n in range(3)]
    assert item_scores(tiny_llama(), encode_choices(word_tokenizer(), items)).tolist() == [1 / 3] * 3


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("choices", [("w0", "w1"), LONG])
def test_outputs_that_are_not_finite_are_no_score(bad, choices):
    module = Fixed([0.0, bad, 1.0])
    with pytest.raises(NotFinite):
        item_scores(module, encode_choices(word_tokenizer(), [make_item(0, choices=choices)]))


def test_broken_weights_are_no_score():
    module = tiny_llama()
    with torch.no_grad():
        module.model.norm.weight.fill_(math.nan)
    with pytest.raises(NotFinite):
        item_scores(module, encode_choices(word_tokenizer(), make_items(range(4))))


def test_scoring_leaves_no_graph_and_changes_nothing():
    module = tiny_llama()
    encoded = encode_choices(word_tokenizer(), make_items(range(6)))
    first = encoded.table(module)
    assert not first.requires_grad
    assert torch.equal(first, encoded.table(module))


def test_answers_are_encoded_with_the_loss_on_the_completion():
    tokenizer = word_tokenizer("<s> $A")
    items = [make_item(n, choices=LONG, answer=n) for n in range(8)]
    data = encode_answers(tokenizer, items)
    texts = encode_answers(tokenizer, items, whole_text=True)
    for row, item in enumerate(items):
        whole = tokenizer(f"{item.prompt} {item.completion}")["input_ids"]
        prompt = tokenizer(item.prompt)["input_ids"]
        length = int(data.lengths[row])
        assert data.input_ids[row, :length].tolist() == texts.input_ids[row, :length].tolist() == whole
        assert data.labels[row, :length].tolist() == [IGNORED] * len(prompt) + whole[len(prompt) :]
        assert texts.labels[row, :length].tolist() == [IGNORED, *whole[1:]]
        assert (data.labels[row, length:] == IGNORED).all()


def test_each_row_knows_its_item_and_where_its_choice_begins():
    items = [make_item(n, choices=LONG[: 2 + n % 3], answer=n) for n in range(6)]
    encoded = encode_choices(word_tokenizer(), items)
    assert encoded.owner.tolist() == [row for row, item in enumerate(items) for _ in item.choices]
    assert encoded.answers.tolist() == [item.answer for item in items]
    first = (encoded.rows.labels != IGNORED).int().argmax(dim=1)
    assert encoded.ends.tolist() == (first - 1).tolist()
    assert len(encoded) == 6


def test_a_choice_without_tokens_is_refused():
    """Its likelihood would be 1, so it would always win."""
    item = make_item(0, choices=("", "w1"), answer=1)
    with pytest.raises(InputError, match="leaves nothing of the choice ''"):
        encode_choices(word_tokenizer(), [item])


def test_a_choice_with_nothing_before_it_is_refused():
    """Its first token could not be scored."""
    item = Item(id="0", group="0", prompt="", choices=("w0 w1", "w2"), answer=0)
    with pytest.raises(InputError, match="no token stands before"):
        encode_choices(word_tokenizer(), [item])
