"""`redteam.unlearn`: any method on a model and data of the user's own."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from tiny_models import random_tokens, same_bits, tiny_llama, weights_of, word_tokenizer
from tiny_tasks import moved, random_labelled, tiny_classifier, tiny_training

import redteam
from redteam.errors import InputError
from redteam.unlearning.own import share_right
from redteam.unlearning.stages import FollowUp

TEXTS = {"forget": ["w1 w2 w3", "w4 w5"], "retain": ["w6 w7 w8 w9", "w10 w11"]}
PAIRS = {
    side: (data.inputs, data.labels)
    for side, data in (("forget", random_labelled(10, 1)), ("retain", random_labelled(12, 2)))
}


def refused(match: str, model: Any = None, method: str = "rmu", **given: Any) -> None:
    sets = {**TEXTS, "tokenizer": word_tokenizer()} if model is None else PAIRS
    with pytest.raises(InputError, match=match) as caught:
        redteam.unlearn(method, tiny_llama() if model is None else model, **{**sets, **given})
    assert str(caught.value).isprintable()


def test_a_language_model_and_texts() -> None:
    model = tiny_llama()
    made = redteam.unlearn("rmu", model, **TEXTS, tokenizer=word_tokenizer(), steps=3)
    assert moved(model, made.module)
    assert same_bits(weights_of(model), weights_of(tiny_llama()))
    assert made.costs["method"].flops > 0
    assert not made.module.training


def test_a_classifier_and_tensors() -> None:
    model = tiny_classifier()
    made = redteam.unlearn("graddiff", model, **PAIRS, steps=3, then=FollowUp(steps=1))
    assert moved(model, made.module)
    assert same_bits(weights_of(model), weights_of(tiny_classifier()))
    assert made.costs.keys() == {"method", "then"}


def test_sets_in_token_form() -> None:
    made = redteam.unlearn("rmu", tiny_llama(), forget=random_tokens(5, 1), retain=random_tokens(5, 2), steps=1)
    assert moved(tiny_llama(), made.module)


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_given_back_in_the_mode_it_was_in(training: bool) -> None:
    model = tiny_classifier().train(training)
    model[2].train(not training)
    modes = [part.training for part in model.modules()]
    redteam.unlearn("original", model, **PAIRS)
    assert [part.training for part in model.modules()] == modes
    refused("diverged|not finite", model, method="graddiff", learning_rate=1e38)
    assert [part.training for part in model.modules()] == modes


def test_what_is_refused_of_the_data() -> None:
    refused("2 examples are in both", retain=[*TEXTS["retain"], *TEXTS["forget"]])
    refused("1 examples are in both", tiny_classifier(), retain=tuple(part[:1] for part in PAIRS["forget"]))
    refused("the forget set is empty", forget=[])
    refused("the retain set is empty", retain=[])
    refused("the forget set is empty", tiny_classifier(), forget=tuple(part[:0] for part in PAIRS["forget"]))
    refused("of different kinds", retain=PAIRS["retain"])
    refused("there is no tokenizer", tokenizer=None)
    refused("fewer than two tokens: 'w1'", forget=["w1"])
    refused("holds a int", forget=["w1 w2", 3])
    refused("is a str", forget="w1 w2 w3")
    refused("10 inputs and 9 labels", tiny_classifier(), forget=(PAIRS["forget"][0], PAIRS["forget"][1][:9]))
    refused("labels of torch.float32", tiny_classifier(), forget=(PAIRS["forget"][0], torch.zeros(10)))


def test_data_that_the_model_cannot_read_is_refused() -> None:
    inputs, labels = PAIRS["forget"]
    refused("cannot read the forget set as pairs", tiny_classifier(), forget=(inputs[:, :-1], labels))
    refused("cannot read the forget set as pairs", tiny_classifier(), forget=(inputs.bfloat16(), labels))
    refused("cannot read the forget set as pairs", tiny_llama(), **PAIRS)
    refused("cannot read the forget set as texts", tiny_classifier(), **TEXTS, tokenizer=word_tokenizer())
    tokens = random_tokens(10, 1).input_ids
    pairs = {side: (tokens + shift, labels) for side, shift in (("forget", 0), ("retain", 1))}
    refused(r"outputs of shape \[1, \d+, \d+\]", tiny_llama(), **pairs)
    refused("labels of the forget set go from 0 to 9", tiny_classifier(), forget=(inputs, torch.arange(10)))
    refused("labels of the forget set go from -1", tiny_classifier(), forget=(inputs, labels - 1 - labels.min()))
    far = dataclasses.replace(random_tokens(5, 1), input_ids=random_tokens(5, 1).input_ids + 10**4)
    refused("tokens of the forget set go from 10", forget=far, retain=random_tokens(5, 2))
    silent = dataclasses.replace(random_tokens(5, 1), labels=torch.full_like(random_tokens(5, 1).labels, -100))
    refused("the forget set has no label", forget=silent, retain=random_tokens(5, 2))


def test_weights_of_low_precision_are_refused() -> None:
    refused("weights are bfloat16, in which small updates are lost", tiny_classifier().bfloat16())


def test_an_original_that_is_broken_is_not_blamed_on_the_method() -> None:
    broken = tiny_classifier()
    with torch.no_grad():
        next(broken.parameters())[0] = float("nan")
    refused("the original has weights that are not finite", broken, method="graddiff")


def test_a_method_that_changes_nothing_did_not_unlearn() -> None:
    refused("graddiff changed no weight", tiny_classifier(), method="graddiff", steps=0)
    refused("rmu changed no weight", tiny_classifier(), steps=1, learning_rate=0.0)


def test_what_is_refused_of_the_method() -> None:
    refused(r"no option 'stepz'. Did you mean 'steps'\?", stepz=3)
    refused(r"no method named 'rnu'. Did you mean 'rmu'\?", method="rnu")
    refused("steps of the method rmu is 1.5", steps=1.5)
    refused("how this model was trained is not known", method="filtered")


def test_a_training_time_method_with_a_recipe() -> None:
    from tiny_tasks import tiny_training

    forget, retain = random_labelled(10, 1), random_labelled(12, 2)
    training = tiny_training("classifier", forget, retain)
    made = redteam.unlearn("filtered", tiny_classifier(), forget=forget, retain=retain, training=training)
    assert moved(tiny_classifier(), made.module)


def test_a_recipe_that_labels_other_examples_than_the_forget_set_is_refused() -> None:
    """Methods that train from nothing go by the recipe's labels: filtering would train on what is to be forgotten."""
    forget, retain = random_labelled(10, 1), random_labelled(12, 2)
    recipe = tiny_training("classifier", forget, retain)
    given = {"forget": forget, "retain": retain}
    assert redteam.unlearn("filtered", tiny_classifier(), **given, training=recipe).module is not None
    for labelled in (torch.zeros(22, dtype=torch.bool), ~recipe.labelled):
        with pytest.raises(InputError, match="does not mark the forget set"):
            redteam.unlearn(
                "filtered", tiny_classifier(), **given, training=dataclasses.replace(recipe, labelled=labelled)
            )


def test_a_model_that_cannot_be_masked_is_refused_in_one_line() -> None:
    headless = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.LayerNorm(3))
    data = {side: (torch.rand(6, 4), torch.arange(6) % 3) for side in ("forget", "retain")}
    with pytest.raises(InputError, match="no linear layer"):
        redteam.unlearn("masked", headless, **data)


def test_share_right_counts_labels() -> None:
    model, data = tiny_classifier(), random_labelled(300)
    with torch.no_grad():
        right = (model(data.inputs).argmax(dim=1) == data.labels).double().mean()
    assert share_right(model, data) == pytest.approx(float(right))
    tokens, module = random_tokens(20), tiny_llama()
    hits = total = 0
    for row in range(20):
        batch = tokens.batch(slice(row, row + 1))
        with torch.no_grad():
            said = module(batch.input_ids).logits[0].argmax(dim=-1)
        for place in range(1, batch.input_ids.shape[1]):
            if batch.labels[0, place] >= 0:
                total += 1
                hits += int(said[place - 1] == batch.labels[0, place])
    assert share_right(module, tokens) == pytest.approx(hits / total)
