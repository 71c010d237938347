"""One formatter for training and scoring, the model's own; and templates that are somebody's program."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny_models import tiny_capability, word_tokenizer
from transformers import PreTrainedTokenizerFast

from redteam.capabilities.chat import opening
from redteam.capabilities.encode import encode_answers
from redteam.capabilities.scorers.choices import encode_choices
from redteam.capabilities.wording import Wording
from redteam.errors import InputError

TEMPLATE = (
    "{% for m in messages %}<s> w20 {{ m.content }} </s>{% endfor %}{% if add_generation_prompt %} w21 {% endif %}"
)
ITEMS = tuple(replace(item, chat=True) for item in tiny_capability().attack)


def chatting(template: str | None = TEMPLATE) -> PreTrainedTokenizerFast:
    tokenizer = word_tokenizer("<s> $A")
    tokenizer.chat_template = template
    return tokenizer


def test_the_model_reads_its_own_template_and_then_the_answer() -> None:
    tokenizer = chatting()
    rows = encode_answers(tokenizer, ITEMS)
    for item, ids, labels, length in zip(ITEMS, rows.input_ids, rows.labels, rows.lengths, strict=True):
        said = [{"role": "user", "content": item.prompt}]
        theirs = tokenizer.apply_chat_template(said, add_generation_prompt=True, return_dict=False)
        answer = tokenizer(item.completion, add_special_tokens=False)["input_ids"]
        assert ids[:length].tolist() == [*theirs, *answer]
        assert (labels >= 0).nonzero()[:, 0].tolist() == list(range(len(theirs), int(length)))


def test_training_and_scoring_read_the_same_tokens() -> None:
    tokenizer = chatting()
    trained, scored = encode_answers(tokenizer, ITEMS), encode_choices(tokenizer, ITEMS)
    for row, length in enumerate(scored.rows.lengths.tolist()):
        assert torch.equal(trained.input_ids[row, :length], scored.rows.input_ids[row, :length])
    assert scored.single is not None
    right = scored.single.gather(1, scored.answers[:, None])[:, 0]
    assert torch.equal(trained.input_ids[torch.arange(len(ITEMS)), scored.rows.lengths], right)


def test_a_plain_prompt_is_read_as_ever() -> None:
    plain = tiny_capability().attack
    first, second = encode_answers(chatting(), plain), encode_answers(word_tokenizer("<s> $A"), plain)
    assert torch.equal(first.input_ids, second.input_ids)


def test_a_phrase_is_found_inside_the_chat() -> None:
    tokenizer = chatting()
    wording = Wording(attack=ITEMS, retain=(), tokenizer=tokenizer)
    whole, place = wording.place_of("w1 w2", "w5 w6", "w3")
    assert tokenizer.decode(whole[place]) == "w5 w6"
    assert tokenizer.decode(whole).split() == ["<s>", "w20", "w1", "w2", "w5", "w6", "w3", "</s>", "w21"]
    longest = max(ITEMS, key=lambda item: len(item.prompt.split()))
    assert wording.longest(ITEMS, lambda prompt: prompt) == 5 + len(longest.prompt.split())


@pytest.mark.parametrize(
    ("before", "text", "after"),
    [
        ("w1 w2", "w5 w6", ""),
        ("w1 w2", "w5 w2", ""),  # it ends as what stands before it
        ("w1 w2", "w1 w2", ""),
        ("", "w5 w6", "w1 w2"),
        ("", "w5 w6", ""),
    ],
)
@pytest.mark.parametrize("template", [TEMPLATE, TEMPLATE.replace("</s>", "w22")])
def test_a_phrase_ends_where_the_rest_of_the_template_begins(template: str, before: str, text: str, after: str) -> None:
    tokenizer = chatting(template)
    whole, place = Wording(attack=ITEMS, retain=(), tokenizer=tokenizer).place_of(before, text, after)
    assert tokenizer.decode(whole[place]) == text
    assert place.start == 2 + len(before.split())


@pytest.mark.parametrize(
    ("template", "says"),
    [
        (None, "has no chat template"),
        ("{% for m in %}", "chat template fails (TemplateSyntaxError"),
        (
            "{{ messages.__class__.__mro__ }}{{ ''.__class__.__base__.__subclasses__() }}",
            "chat template fails (SecurityError",
        ),
        (
            "{% for i in range(90000) %}{% for j in range(90000) %}{% endfor %}{% endfor %}",
            "chat template fails (AttackHung",
        ),
    ],
)
def test_a_template_that_is_not_there_or_does_harm_is_refused(template: str | None, says: str) -> None:
    with pytest.raises(InputError) as caught:
        opening(chatting(template), "w1", chat=True)
    assert says in caught.value.found
