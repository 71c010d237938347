"""Answers that are not chosen, against what transformers says of the same model."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import make_item, tiny_capability, tiny_llama, word_tokenizer
from tiny_views import knowing_llama, text_capability
from torch import nn
from transformers import GenerationConfig, GPT2Config, GPT2LMHeadModel

from redteam.capabilities.items import Capability, Item, blind_score
from redteam.capabilities.reading import encode_scoring
from redteam.capabilities.scorers.answers import words_of
from redteam.capabilities.scorers.calibrated import Calibrated
from redteam.capabilities.scorers.choice import Choice
from redteam.capabilities.scorers.cloze import Cloze
from redteam.capabilities.scorers.contract import NotFinite, item_scores, share_known
from redteam.capabilities.scorers.exact import Exact, exact_match
from redteam.capabilities.scorers.f1 import F1, f1
from redteam.capabilities.scorers.written import EncodedQuestions, written
from redteam.registry import SCORERS

TOKENIZER = word_tokenizer("<s> $A")
ANSWERS = ("w0", "w1 w0", "w1 w2 w0", "w3 w2", "w3 w1")


def questions(count: int = 40) -> tuple[Item, ...]:
    """Prompts and answers of unequal lengths, and no wrong answers."""
    return tuple(make_item(n, choices=(ANSWERS[n % 5],)) for n in range(count))


def open_capability(scorer: str, **changes: object) -> Capability:
    parts = {"attack": questions(12), "select": questions(8), "certify": questions(), "retain": questions(10)}
    return Capability(name="open", **parts, utility=questions(6), scorers=(SCORERS.create(scorer),), **changes)


def scores(module: nn.Module, scorer: str, items: tuple[Item, ...]) -> np.ndarray:
    return item_scores(module, encode_scoring(open_capability(scorer), items, TOKENIZER))


@pytest.mark.parametrize("scorer", ["cloze", "loss"])
def test_likelihoods_are_those_of_transformers(scorer: str) -> None:
    module = tiny_llama()
    for item, score in zip(questions(), scores(module, scorer, questions()), strict=True):
        ids = torch.tensor([TOKENIZER(f"{item.prompt} {item.completion}")["input_ids"]])
        labels = ids.clone()
        if scorer == "cloze":
            labels[:, : len(TOKENIZER(item.prompt)["input_ids"])] = -100
        assert score == pytest.approx(torch.exp(-module(input_ids=ids, labels=labels).loss).item(), rel=1e-5)


@pytest.mark.parametrize("hooked", [False, True])
def test_what_is_written_is_what_transformers_generates(hooked: bool) -> None:
    """One prompt at a time, where ours takes many; with hooks ours has no cache."""
    module, items = tiny_llama(), questions()
    module.generation_config.eos_token_id = None
    encoded = encode_scoring(open_capability("f1"), items, TOKENIZER)
    assert isinstance(encoded, EncodedQuestions)
    hook = module.model.layers[0].register_forward_hook(lambda *_: None) if hooked else None
    ours = written(module, encoded, slice(0, len(items)))
    if hook is not None:
        hook.remove()
    for item, tokens in zip(items, ours, strict=True):
        ids = torch.tensor([TOKENIZER(item.prompt)["input_ids"]])
        count = len(item.completion.split())
        how = GenerationConfig(max_new_tokens=count, do_sample=False, pad_token_id=28)
        theirs = module.generate(ids, attention_mask=torch.ones_like(ids), generation_config=how)
        assert tokens == theirs[0, ids.shape[1] :].tolist()
    assert len({tuple(tokens) for tokens in ours}) > 10


@pytest.mark.parametrize("hooked", [False, True])
def test_the_longest_prompt_and_the_longest_answer_need_not_fit_together(
    hooked: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a model that looks its positions up in a table: there is none for more."""
    items = (
        Item(id="a", group="a", prompt=" ".join(["w4"] * 14), choices=("w0",), answer=0),
        Item(id="b", group="b", prompt="w5", choices=(" ".join(["w1"] * 13),), answer=0),
        Item(id="c", group="c", prompt="w6 w7", choices=("w2 w3",), answer=0),
    )
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        config = GPT2Config(vocab_size=32, n_positions=16, n_embd=16, n_layer=2, n_head=2, initializer_range=0.5)
        module = GPT2LMHeadModel(config).eval()
    module.generation_config.eos_token_id = None
    encoded = encode_scoring(open_capability("f1"), items, TOKENIZER)
    assert isinstance(encoded, EncodedQuestions)
    hook = module.transformer.h[0].register_forward_hook(lambda *_: None) if hooked else None
    together = written(module, encoded, slice(0, 3))
    assert [len(tokens) for tokens in together] == [1, 13, 2]
    if hook is not None:
        hook.remove()
    assert together == [written(module, encoded, slice(row, row + 1))[0] for row in range(3)]
    assert capsys.readouterr().err == ""


def test_what_a_checkpoint_asks_of_generation_is_not_done() -> None:
    module, items = tiny_llama(), questions()
    encoded = encode_scoring(open_capability("f1"), items, TOKENIZER)
    assert isinstance(encoded, EncodedQuestions)
    plain = written(module, encoded, slice(0, 40))
    asked = GenerationConfig(do_sample=True, temperature=9.0, repetition_penalty=5.0, num_beams=3, eos_token_id=[0, 1])
    module.generation_config = asked
    assert written(module, encoded, slice(0, 40)) == plain
    assert module.generation_config is asked


def test_the_right_answer_is_not_shown_to_the_model_that_writes() -> None:
    module, items = tiny_llama(), questions()
    others = tuple(replace(item, choices=(" ".join(["w9"] * len(item.completion.split())),)) for item in items)
    first, second = (encode_scoring(open_capability("f1"), part, TOKENIZER) for part in (items, others))
    assert isinstance(first, EncodedQuestions)
    assert isinstance(second, EncodedQuestions)
    assert written(module, first, slice(0, 40)) == written(module, second, slice(0, 40))


@pytest.mark.parametrize("scorer", ["exact", "f1", "cloze"])
def test_who_knows_says_it_and_who_does_not_does_not(scorer: str) -> None:
    capability = replace(text_capability(many=True), scorers=(SCORERS.create(scorer),))
    tokenizer = word_tokenizer()
    encoded = encode_scoring(capability, capability.certify, tokenizer)
    assert share_known(knowing_llama(capability), encoded) > 0.9
    assert share_known(tiny_llama(1), encoded) < 0.4


def test_what_is_written_moves_the_table_even_where_no_answer_is_right() -> None:
    encoded = encode_scoring(open_capability("exact"), questions(), TOKENIZER)
    first, second = (encoded.table(tiny_llama(seed)) for seed in (0, 1))
    assert first.shape == (40, 2)
    assert (first[:, 0] != second[:, 0]).all()


@pytest.mark.parametrize("scorer", ["cloze", "loss", "exact", "f1"])
def test_outputs_that_are_not_finite_are_no_score(scorer: str) -> None:
    module = tiny_llama()
    with torch.no_grad():
        module.lm_head.weight.fill_(torch.nan)
    with pytest.raises(NotFinite):
        scores(module, scorer, questions())


def test_a_calibrated_choice_is_blind_to_what_is_likely_whatever_is_asked() -> None:
    """A bias of the output head for one choice cancels; uncalibrated, it decides."""
    capability = replace(tiny_capability(), scorers=(SCORERS.create("calibrated"),), premise="w7")
    module = tiny_llama(attention_bias=False)
    module.lm_head.bias = nn.Parameter(torch.zeros(32))
    calibrated, plain = (
        encode_scoring(capability, capability.attack, TOKENIZER, SCORERS.create(scorer))
        for scorer in ("calibrated", "choice")
    )
    before = {name: item_scores(module, e) for name, e in (("calibrated", calibrated), ("choice", plain))}
    with torch.no_grad():
        module.lm_head.bias[TOKENIZER.convert_tokens_to_ids("w2")] = 30.0
    assert (item_scores(module, calibrated) == before["calibrated"]).all()
    assert (plain.table(module).argmax(dim=1) == 2).all()
    assert (item_scores(module, plain) != before["choice"]).any()
    assert 0 < before["calibrated"].mean() < 1


def test_calibration_takes_off_what_the_premise_says() -> None:
    capability = replace(text_capability(many=True), scorers=(SCORERS.create("calibrated"),), premise="w7 w8")
    module, tokenizer = tiny_llama(), word_tokenizer()
    table = encode_scoring(capability, capability.select, tokenizer).table(module)
    asked = encode_scoring(capability, capability.select, tokenizer, Choice()).table(module)
    nothing = tuple(replace(item, prompt="w7 w8") for item in capability.select)
    premise = encode_scoring(capability, nothing, tokenizer, Choice()).table(module)
    real = asked > -torch.inf
    assert (~real).any()
    assert torch.equal(table[real], (asked - premise)[real])
    assert (table[~real] == -torch.inf).all()


@pytest.mark.parametrize(
    ("said", "right", "expected"),
    [
        ("The cat sat.", "a cat sat", 1.0),  # articles, punctuation and case do not count
        ("cat", "cat sat", 2 / 3),
        ("dog", "cat", 0.0),
        ("cat cat", "cat", 2 / 3),  # a word counts as often as it stands
        ("", "cat", 0.0),
        ("the", "an", 1.0),  # nothing is left of either
    ],
)
def test_f1_of_words(said: str, right: str, expected: float) -> None:
    assert f1(said, right) == pytest.approx(expected)


@given(st.text(), st.text())
def test_f1_and_exact_match(said: str, right: str) -> None:
    assert f1(said, right) == f1(right, said)
    assert 0 <= f1(said, right) <= 1
    assert (f1(said, right) == 1) == (Counter(words_of(said)) == Counter(words_of(right)))
    assert exact_match(said, said) == 1
    assert exact_match(said, right) <= f1(said, right)


def test_nothing_counts_after_the_end() -> None:
    encoded = encode_scoring(open_capability("f1"), questions(1), TOKENIZER)
    assert isinstance(encoded, EncodedQuestions)
    end = TOKENIZER.eos_token_id
    assert encoded.compared([[0, end, 5, 6]]) == [1.0]
    assert encoded.compared([[end, 0]]) == [0.0]
    assert 0 < encoded.compared([[0, 5, 6]])[0] < 1

    class Lines:
        eos_token_id = None

        def batch_decode(self, tokens: list[list[int]], **_: object) -> list[str]:
            return [" w0\nand more of it"]

    assert replace(encoded, tokenizer=Lines()).compared([[0]]) == [1.0]


def test_always_saying_one_thing_is_chance() -> None:
    assert Exact().constant(["The cat", "cat", "dog"], ["cat", "a dog", "cow", "cat"]) == 0.5
    assert F1().constant(["red cat", "cat", "cat"], ["cat", "black cat"]) == pytest.approx((1 + 2 / 3) / 2)
    assert Choice().constant(["A", "B", "A"], ["A", "B"]) == 0.5
    assert Cloze().constant(["A"], ["A"]) == 0.0
    capability = open_capability("exact")
    assert capability.chance == 8 / 40  # each of five answers is right eight times
    assert capability.chance_by(Cloze()) == 0.0
    assert open_capability("f1").chance > 8 / 40
    assert blind_score(Exact(), capability.certify) == 0.0


def test_scorers_are_part_of_what_a_capability_is() -> None:
    plain = tiny_capability()
    others = [replace(plain, scorers=(SCORERS.create(name),)) for name in ("cloze", "exact", "f1", "loss")]
    others.append(replace(plain, scorers=(Choice(), Cloze())))
    others.append(replace(plain, attack=tuple(replace(item, chat=True) for item in plain.attack)))
    others += [replace(plain, scorers=(SCORERS.create("calibrated"),), premise=premise) for premise in ("w7", "w8")]
    assert len({plain.sha256, *(other.sha256 for other in others)}) == 1 + len(others)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"scorers": ()}, "scorers are"),
        ({"scorers": (Exact(), Exact())}, "none twice"),
        ({"scorers": (Calibrated(),)}, "needs a premise"),
    ],
)
def test_a_capability_is_scored_by_what_there_is(changes: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        replace(tiny_capability(), **changes)
