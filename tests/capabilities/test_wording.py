"""How a model is asked: rewritten prompts, and where a phrase ends up among the tokens."""

from __future__ import annotations

import pytest
import torch
from tiny_models import make_items, merging_tokenizer, word_tokenizer

from redteam.capabilities.encode import encode_answers
from redteam.capabilities.wording import Wording, as_it_is, asked

ITEMS = make_items(range(6))


def wording(template: str = "$A") -> Wording:
    return Wording(attack=ITEMS, retain=(), tokenizer=word_tokenizer(template))


def test_only_the_prompt_is_rewritten() -> None:
    rewritten = asked(ITEMS, lambda prompt: f"w9 {prompt}")
    assert [item.prompt for item in rewritten] == [f"w9 {item.prompt}" for item in ITEMS]
    for new, old in zip(rewritten, ITEMS, strict=True):
        assert (new.id, new.group, new.choices, new.answer) == (old.id, old.group, old.choices, old.answer)


def test_what_is_no_text_is_refused() -> None:
    with pytest.raises(TypeError, match="rewritten to a NoneType"):
        asked(ITEMS, lambda prompt: None)  # type: ignore[arg-type,return-value]


def test_items_are_encoded_as_they_are_asked() -> None:
    plain, changed = (wording().encoded(ITEMS, way) for way in (as_it_is, lambda prompt: f"w9 {prompt}"))
    assert torch.equal(plain.input_ids, encode_answers(word_tokenizer(), ITEMS).input_ids)
    assert torch.equal(changed.lengths, plain.lengths + 1)
    assert (changed.input_ids[:, 0] == 9).all()
    assert torch.equal(changed.input_ids[:, 1:], plain.input_ids)


def test_the_longest_is_counted_with_its_longest_choice() -> None:
    longest = max(len(item.prompt.split()) for item in ITEMS)
    assert wording().longest(ITEMS, as_it_is) == longest + 1
    assert wording("<s> $A </s>").longest(ITEMS, lambda prompt: f"w1 {prompt}") == longest + 3


@pytest.mark.parametrize("template", ["$A", "<s> $A", "<s> $A </s>"])
@pytest.mark.parametrize(
    ("before", "after", "tokens"),
    [("", "w1 w2", [7, 8, 1, 2]), ("w1 w2", "", [1, 2, 7, 8]), ("w1", "w2", [1, 7, 8, 2])],
)
def test_a_text_is_found_among_the_tokens(template: str, before: str, after: str, tokens: list[int]) -> None:
    whole, place = wording(template).place_of(before, "w7 w8", after)
    start = 1 if "<s>" in template else 0
    assert whole == ([30] if start else []) + tokens
    assert whole[place] == [7, 8]


def test_a_token_that_is_shared_is_not_the_texts_own() -> None:
    """The end of what stands before is merged with the beginning of the text."""
    asking = Wording(attack=(), retain=(), tokenizer=merging_tokenizer())
    whole, place = asking.place_of("a b", "c d", "")
    names = merging_tokenizer().convert_ids_to_tokens
    assert names(whole) == ["a", " ", "b c", " ", "d"]
    assert names(whole[place]) == ["b c", " ", "d"]  # "b" alone is another token, so the text starts there
