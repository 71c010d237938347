"""Attacks that change how a model is asked: rewritings, searches, and how a trial scores through them."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

import pytest
import torch
from tiny_models import (
    make_item,
    make_items,
    merging_tokenizer,
    same_bits,
    tiny_capability,
    tiny_llama,
    tiny_target,
    weights_of,
    word_tokenizer,
)
from tokenizers import Tokenizer, models
from torch import nn
from transformers import PreTrainedTokenizerFast

from redteam.attacks import phrases
from redteam.attacks.contract import Arena
from redteam.attacks.in_context import SEPARATORS, InContext, shown_before
from redteam.attacks.phrases import Standing, changed, distinct, phrase_losses, row_losses, words_of
from redteam.attacks.rephrase import SPELLINGS, TEMPLATES, Rephrase, rephrasing
from redteam.attacks.suffix import SHARE, Suffix, by_gradient
from redteam.attacks.word_search import WordSearch, by_chance
from redteam.capabilities.reading import encode_scoring
from redteam.capabilities.scorers.contract import item_scores
from redteam.capabilities.wording import Wording, as_it_is, asked
from redteam.engine.cost import Ledger, Spent
from redteam.engine.embeddings import embeddings_of, token_gradients
from redteam.engine.loop import Diverged
from redteam.setting import open_setting
from redteam.target import TargetInfo
from redteam.trial import TrialSpec, open_arena, run_trial

ATTACK, RETAIN = make_items(range(12)), make_items(range(12, 22))
PHRASE = {"tokens": 3, "place": "before", "steps": 12, "width": 24, "samples": 12, "batch_size": 12}


def arena(module: nn.Module | None = None, *, positions: int | None = None, seed: int = 0) -> Arena:
    module = tiny_llama() if module is None else module
    wording = Wording(attack=ATTACK, retain=RETAIN, tokenizer=word_tokenizer("<s> $A"), positions=positions)
    data = wording.encoded(ATTACK, as_it_is)
    ledger = Ledger(parameters=sum(p.numel() for p in module.parameters()))
    return Arena(module=module, answers=data, texts=data, retain=data, ledger=ledger, seed=seed, wording=wording)


def run(attack: Any, ground: Arena, params: Mapping[str, Any]) -> list[Spent]:
    return list(attack.run(ground, params))


# Rephrasing.


@pytest.mark.parametrize("template", TEMPLATES)
def test_every_template_asks_the_question_and_leaves_the_answer_to_come(template: str) -> None:
    text = rephrasing(TEMPLATES[template], str)("Anna was born in")
    assert "Anna was born in" in text
    assert "{" not in text


def test_templates_and_spellings_all_differ() -> None:
    texts = {rephrasing(t, s)("anna Was Born in") for t in TEMPLATES.values() for s in SPELLINGS.values()}
    assert len(texts) == len(TEMPLATES) * len(SPELLINGS)


def test_a_prompt_with_braces_is_left_alone() -> None:
    assert rephrasing("{prompt}", str)("a {prompt} {0}") == "a {prompt} {0}"


def test_plain_and_as_it_is_asks_as_it_is() -> None:
    ground = arena()
    run(Rephrase(), ground, {"template": "plain", "spelling": "as it is"})
    assert ground.text.rewrite("Anna was born in") == "Anna was born in"


# Examples.


def test_examples_stand_before_the_question_with_their_answers() -> None:
    rewrite = shown_before(ATTACK[:2], 2, "\n", nearest=False)
    first, second = (f"{item.prompt} {item.completion}" for item in ATTACK[:2])
    assert rewrite("w20 w21") == f"{second}\n{first}\nw20 w21"


def test_the_nearest_share_words_and_the_likest_stands_last() -> None:
    pool = tuple(make_item(n) for n in range(3))
    pool = tuple(
        dataclasses.replace(item, prompt=text) for item, text in zip(pool, ("a b", "c d e", "c d"), strict=True)
    )
    assert shown_before(pool, 2, "|", nearest=True)("c d f").split("|") == ["c d e w0", "c d w0", "c d f"]
    assert shown_before(pool, 2, "|", nearest=True)("a").split("|") == ["c d e w0", "a b w0", "a"]


def test_no_item_is_an_example_for_itself() -> None:
    rewrite = shown_before(ATTACK, len(ATTACK), "\n", nearest=True)
    for item in ATTACK:
        assert f"{item.prompt} {item.completion}" not in rewrite(item.prompt).split("\n")


@pytest.mark.parametrize("source", ["attack", "retain"])
def test_examples_come_from_where_they_are_told(source: str) -> None:
    ground = arena()
    run(InContext(), ground, {"shots": 4, "source": source, "which": "first", "separator": "line"})
    shown = ground.text.rewrite("w27").split("\n")[:-1]
    pool = ATTACK if source == "attack" else RETAIN
    assert shown == [f"{item.prompt} {item.completion}" for item in reversed(pool[:4])]


def test_as_many_examples_as_the_model_can_read() -> None:
    ground = arena(positions=20)  # four of up to four tokens, and a question of up to five with its answer
    run(InContext(), ground, {"shots": 16, "source": "attack", "which": "first", "separator": "line"})
    assert ground.text.longest([*ATTACK, *RETAIN], ground.text.rewrite) <= 20
    assert len(ground.text.rewrite("w27").split("\n")) == 1 + 3


def test_no_room_for_one_example_is_an_error_and_no_score() -> None:
    with pytest.raises(ValueError, match="reads 5 tokens, too few for one example"):
        run(InContext(), arena(positions=5), {"shots": 4, "source": "attack", "which": "first", "separator": "line"})


def test_separators_are_told_apart() -> None:
    assert len({shown_before(ATTACK, 2, s, nearest=True)("w1") for s in SEPARATORS.values()}) == len(SEPARATORS)


# Gradients by tokens, and losses of phrases, against plain torch.


@pytest.mark.parametrize("tied", [False, True])
def test_token_gradients_are_those_of_one_hot_inputs(tied: bool) -> None:
    """An oracle by another road: one-hot vectors times the table are given as embeddings."""
    module = tiny_llama(tie_word_embeddings=tied)
    batch = arena().text.encoded(ATTACK[:5], lambda prompt: f"w9 w8 {prompt}").batch(slice(None))
    table = embeddings_of(module).weight.detach()
    one_hot = nn.functional.one_hot(batch.input_ids, len(table)).float().requires_grad_()
    logits = module(inputs_embeds=one_hot @ table, attention_mask=batch.mask).logits
    labels = batch.labels[:, 1:].flatten()
    nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels, ignore_index=-100).backward()
    expected = one_hot.grad[:, 1:3].sum(dim=0)
    module.zero_grad()
    got = token_gradients(module, batch, [slice(1, 3)] * 5)
    assert got.shape == (2, len(table))
    assert torch.allclose(got, expected, atol=1e-6)
    assert all(p.grad is None for p in module.parameters())
    assert not embeddings_of(module)._forward_hooks


def test_places_may_differ_from_sequence_to_sequence() -> None:
    module, text = tiny_llama(), arena().text
    batch = text.encoded(ATTACK[:4], lambda prompt: f"{prompt} w9").batch(slice(None))
    places = [text.place_of(item.prompt, "w9", "")[1] for item in ATTACK[:4]]
    assert len({place.start for place in places}) > 1
    alone = [
        token_gradients(module, batch, [place if n == m else slice(0, 1) for m in range(4)])
        for n, place in enumerate(places)
    ]
    first = token_gradients(module, batch, [slice(0, 1)] * 4)
    together = token_gradients(module, batch, places)
    assert torch.allclose(sum(alone) - 3 * first, together, atol=1e-5)


def test_hooks_go_away_when_the_loss_cannot_be_had() -> None:
    module = tiny_llama()
    batch = arena().text.encoded(ATTACK[:2], as_it_is).batch(slice(None))
    broken = dataclasses.replace(batch, input_ids=batch.input_ids + 1000)
    with pytest.raises(IndexError):
        token_gradients(module, broken, [slice(0, 1)] * 2)
    assert not embeddings_of(module)._forward_hooks


def test_row_losses_are_the_loss_of_each_sequence_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    module, data = tiny_llama(), arena().text.encoded(ATTACK, lambda prompt: f"w9 {prompt}")
    expected = [float(data.batch(slice(n, n + 1)).loss(module).detach()) for n in range(len(data))]
    assert row_losses(module, data).tolist() == pytest.approx(expected, abs=1e-5)
    monkeypatch.setattr(phrases, "READ", 5)
    assert row_losses(module, data).tolist() == pytest.approx(expected, abs=1e-5)


# Searches.


def standing(ground: Arena, phrase: str = "w9 w8 w7", place: str = "before", width: int = 40) -> Standing:
    words = words_of(ground.text.tokenizer, ground.module)
    return Standing(
        phrase=phrase,
        items=ground.text.attack[:6],
        place=place,
        room=4,
        words=words,
        width=width,
        generator=torch.Generator().manual_seed(0),
    )


def test_a_phrase_is_made_of_tokens_that_can_be_printed() -> None:
    assert words_of(word_tokenizer(), tiny_llama()).tolist() == list(range(28))
    assert words_of(word_tokenizer(), tiny_llama(vocab_size=20)).tolist() == list(range(20))
    kept = words_of(merging_tokenizer(), tiny_llama(vocab_size=40)).tolist()
    assert merging_tokenizer().convert_tokens_to_ids(" ") not in kept  # nothing but a space
    silent = Tokenizer(models.WordLevel({"<unk>": 0, " ": 1}, unk_token="<unk>"))
    with pytest.raises(ValueError, match="no token that can be printed"):
        words_of(PreTrainedTokenizerFast(tokenizer_object=silent, unk_token="<unk>"), tiny_llama())


def chat_arena() -> Arena:
    """As `arena`, but every prompt is said by a user, and the template puts two tokens behind it."""
    ground = arena()
    tokenizer = word_tokenizer()
    tokenizer.chat_template = "<s> w20 {{ messages[0].content }} </s> w21 "
    said = tuple(dataclasses.replace(item, chat=True) for item in ATTACK)
    return dataclasses.replace(ground, wording=Wording(attack=said, retain=RETAIN, tokenizer=tokenizer))


@pytest.mark.parametrize("made", [arena, chat_arena])
@pytest.mark.parametrize("propose", [by_gradient, by_chance])
@pytest.mark.parametrize("place", ["before", "after"])
def test_proposals_differ_in_one_token(propose: Any, place: str, made: Any) -> None:
    ground = made()
    proposed, _ = propose(ground, standing(ground, place=place))
    assert len(proposed) == 40
    for tokens in proposed:
        assert len(tokens) in (3, 4 if propose is by_chance else 3)
        assert sum(a != b for a, b in zip(tokens, [9, 8, 7], strict=False)) <= 1
    assert len({tuple(tokens) for tokens in proposed}) > 5
    assert len(distinct(ground.text.tokenizer, proposed, "w9 w8 w7", 4)) > 5  # and they are short enough to be tried


def test_gradients_choose_among_what_promises_most() -> None:
    ground = arena()
    now = standing(ground, width=400)
    proposed, differentiated = by_gradient(ground, now)
    data = ground.text.encoded(now.items, lambda prompt: f"w9 w8 w7 {prompt}")
    assert differentiated == int(data.lengths.sum())
    gradient = token_gradients(ground.module, data.batch(slice(None)), [slice(1, 4)] * 6)[:, now.words]
    best = [set(row.argsort()[: -(-28 // SHARE)].tolist()) for row in gradient]
    for place in range(3):
        new = {t[place] for t in proposed if t[place] != [9, 8, 7][place]}
        assert new <= best[place]
        assert len(new) >= len(best[place]) - 1


def test_losses_of_phrases_are_those_of_items_asked_so() -> None:
    ground = arena()
    losses, data = phrase_losses(ground, standing(ground, place="after"), ["w1", "w2 w3"])
    assert len(data) == 12
    for phrase, loss in losses.items():
        alone = ground.text.encoded(ATTACK[:6], lambda prompt, phrase=phrase: f"{prompt} {phrase}")
        assert loss == pytest.approx(float(row_losses(ground.module, alone).mean()), abs=1e-5)


def test_phrases_that_do_not_fit_are_left_out() -> None:
    ground = arena(positions=7)  # <s>, a phrase, a prompt of up to three words and an answer
    losses, data = phrase_losses(ground, standing(ground), ["w1", "w1 w2 w3 w4", "w2 w3"])
    assert losses.keys() == {"w1", "w2 w3"}
    assert len(data) == 12
    with pytest.raises(ValueError, match="reads 4 tokens, too few for a phrase"):
        phrase_losses(arena(positions=4), standing(ground), ["w1"])


def test_what_is_not_finite_ends_the_search() -> None:
    module = tiny_llama()
    with torch.no_grad():
        module.lm_head.weight.fill_(torch.nan)
    with pytest.raises(Diverged):
        run(WordSearch(), arena(module), PHRASE)


def test_candidates_are_texts_that_stay_as_short() -> None:
    tokens = [[1, 2], [1, 2], [3, 4, 5, 6], [9, 8], []]
    assert distinct(word_tokenizer("<s> $A"), tokens, "w9 w8", 3) == ["w1 w2"]


def test_changed() -> None:
    assert changed([1, 2, 3], 1, 9) == [1, 9, 3]
    assert changed([1, 2], 2, 9) == [1, 2, 9]


@pytest.mark.parametrize("attack", [Suffix(), WordSearch()])
@pytest.mark.parametrize("place", ["before", "after"])
def test_a_search_lowers_the_loss_on_its_items_and_moves_no_weight(attack: Any, place: str) -> None:
    ground = arena()
    losses = []
    for _ in attack.run(ground, {**PHRASE, "place": place}):
        data = ground.text.encoded(ATTACK, ground.text.rewrite)
        losses.append(float(row_losses(ground.module, data).mean()))
    assert ground.ledger.losses == pytest.approx(losses, abs=1e-5)  # what it says is the loss of what it put in place
    assert all(later <= earlier + 1e-6 for earlier, later in pairwise(losses))
    plain = float(row_losses(ground.module, ground.text.encoded(ATTACK, as_it_is)).mean())
    assert losses[-1] < plain
    assert same_bits(weights_of(ground.module), weights_of(tiny_llama()))


@pytest.mark.parametrize("attack", [Suffix(), WordSearch()])
@pytest.mark.parametrize("place", ["before", "after"])
def test_in_a_chat_the_phrase_moves(attack: Any, place: str) -> None:
    ground = chat_arena()
    asked_as = [ground.text.rewrite("w1") for _ in attack.run(ground, {**PHRASE, "place": place})]
    assert len(set(asked_as)) > 2
    assert all(len(text.split()) <= 4 for text in asked_as)
    assert ground.ledger.losses[-1] < ground.ledger.losses[0]


def test_the_gradient_finds_more_than_chance() -> None:
    """With as many candidates, over seeds: else the gradient would be of the wrong sign or place."""
    ends: dict[str, list[float]] = {"suffix": [], "word-search": []}
    for seed in range(8):
        for attack in (Suffix(), WordSearch()):
            ground = arena(seed=seed)
            run(attack, ground, {**PHRASE, "tokens": 6, "steps": 4, "width": 8})
            ends[attack.name].append(ground.ledger.losses[-1])
    assert sum(ends["suffix"]) < sum(ends["word-search"])


def test_only_the_first_samples_are_looked_at() -> None:
    ground = arena()
    shown: set[tuple[int, ...]] = set()

    def note(_module: nn.Module, _given: Any, named: dict[str, Any]) -> None:
        shown.update(tuple(row.tolist()) for row in named["input_ids"])

    handle = ground.module.register_forward_pre_hook(note, with_kwargs=True)
    run(Suffix(), ground, {**PHRASE, "samples": 2, "tokens": 1, "steps": 3})
    handle.remove()
    words = [ground.text.tokenizer(item.prompt)["input_ids"][1:] for item in ATTACK]
    texts = [" ".join(map(str, row)) for row in shown]
    assert all(any(" ".join(map(str, w)) in text for text in texts) for w in words[:2])
    assert not any(" ".join(map(str, w)) in text for w in words[2:] if len(w) == 3 for text in texts)


def test_costs_are_those_of_what_is_read() -> None:
    ground = arena()
    read = [0]

    def note(_module: nn.Module, _given: Any, named: dict[str, Any]) -> None:
        ids, mask = named["input_ids"], named["attention_mask"]
        read[0] += ids.numel() if mask is None else int(mask.sum())

    handle = ground.module.register_forward_pre_hook(note, with_kwargs=True)
    spent = run(Suffix(), ground, PHRASE)[-1]
    handle.remove()
    assert spent.tokens == read[0]
    weights = ground.ledger.parameters
    assert 2 * weights * spent.tokens < spent.flops < 4 * weights * spent.tokens


# In a trial.


class Asks:
    """Rewrites prompts, a way for each step."""

    name, version, goal, paper, access, kinds = "asks", 1, "", "", "text", "language"

    def __init__(self, *ways: Any) -> None:
        self.ways = ways

    def run(self, arena: Arena, params: Any) -> Iterator[Spent]:
        for way in self.ways:
            arena.text.rewrite = way
            yield arena.ledger.charge_edit()


def test_a_trial_scores_every_split_as_it_is_asked() -> None:
    target, capability = tiny_target(), tiny_capability()
    setting = open_setting(target, capability)
    ways = [lambda prompt: f"w9 {prompt}", lambda prompt: f"{prompt} w9 w8"]
    spec = TrialSpec(key="0", attack="asks", params={}, seed=0, certify=True)
    result = run_trial(setting, Asks(*ways), spec)
    assert result.error is None
    assert result.outputs_moved > 0
    assert result.share_moved == 0
    first = capability.attack[0].prompt
    assert [point.asked for point in result.points] == [None, f"w9 {first}", f"{first} w9 w8"]
    for point, way in zip(result.points, [as_it_is, *ways], strict=True):
        for split, scores in point.scores.items():
            items = asked(getattr(capability, split), way)
            expected = item_scores(target.module, encode_scoring(capability, items, target.tokenizer))
            assert scores.tolist() == expected.tolist()


def test_the_next_trial_asks_plainly_again() -> None:
    setting = open_setting(tiny_target(), tiny_capability())
    spec = TrialSpec(key="0", attack="asks", params={}, seed=0)
    run_trial(setting, Asks(lambda prompt: f"w9 {prompt}"), spec)
    result = run_trial(setting, Asks(as_it_is), spec)
    assert result.outputs_moved == 0
    assert result.points[-1].scores["select"].tolist() == setting.start["select"].tolist()


@pytest.mark.parametrize(
    ("way", "error"),
    [
        (lambda prompt: " ".join([prompt] * 20), "InputError: an item has .* tokens, tiny reads 32"),
        (lambda prompt: None, "TypeError: a prompt was rewritten to a NoneType"),
        (lambda prompt: "", "InputError: item-.*: no token stands before the choice"),
    ],
)
def test_prompts_that_cannot_be_read_fail_the_trial(way: Any, error: str) -> None:
    setting = open_setting(tiny_target(), tiny_capability())
    result = run_trial(setting, Asks(way), TrialSpec(key="0", attack="asks", params={}, seed=0))
    assert result.state == "failed"
    assert result.error is not None
    assert re.match(error, result.error), result.error


def test_an_arena_holds_items_of_the_attack_split_alone_in_the_order_of_its_answers() -> None:
    setting = open_setting(tiny_target(), tiny_capability())
    ground = open_arena(setting, TrialSpec(key="0", attack="x", params={}, seed=3), Ledger(parameters=1))
    assert set(ground.text.attack) == set(tiny_capability().attack)
    assert ground.text.retain == tiny_capability().retain
    assert torch.equal(ground.text.encoded(ground.text.attack, as_it_is).input_ids, ground.answers.input_ids)


def test_a_classifier_is_not_asked_in_words() -> None:
    data = arena().answers
    ground = Arena(module=tiny_llama(), answers=data, texts=data, retain=data, ledger=Ledger(parameters=1), seed=0)
    with pytest.raises(ValueError, match="not asked in words"):
        run(Rephrase(), ground, {"template": "plain", "spelling": "as it is"})


def test_a_longer_search_by_gradient_comes_after_the_others() -> None:
    info = TargetInfo(kind="language", architecture="llama", parameters=5_000, layers=2, hidden_size=16)
    sizes = [(params["steps"], params["width"]) for params in Suffix().recipes(info, 40)]
    assert sizes == [(16, 64)] * 3 + [(128, 64)]
    assert max(params["steps"] for params in WordSearch().recipes(info, 40)) == 32
