"""Sampling against draws that are really made, and planted models."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from tiny_classifiers import tiny_points, trained_mlp
from tiny_models import same_bits, tiny_llama, weights_of, word_tokenizer
from tiny_tasks import hooks_of
from tiny_views import knowing_llama, near, planted_classifier, text_capability, view_of

from redteam.capabilities.reading import encode_scoring
from redteam.capabilities.scorers.contract import NotFinite, item_scores
from redteam.probes.sampling import DRAWS, TEMPERATURES, Sampling, once_in, probability_right

CLASSES, ITEMS = 16, 60
BLIND_RATE = 1 - (1 - 1 / CLASSES) ** DRAWS
ANSWERS = [n % CLASSES for n in range(ITEMS)]


def mean(scores: tuple[float, ...]) -> float:
    return sum(scores) / len(scores)


def sure_of(classes: list[int], margin: float = 40.0) -> torch.Tensor:
    """Logits of a model that is all but certain of these classes."""
    return torch.nn.functional.one_hot(torch.tensor(classes), CLASSES) * margin


def wrong(seed: int) -> list[int]:
    """Guesses drawn blindly: a sixteenth of them is right."""
    return torch.randint(0, CLASSES, (ITEMS,), generator=torch.Generator().manual_seed(seed)).tolist()


@pytest.mark.parametrize("temperature", [*TEMPERATURES, math.inf])
def test_the_formula_is_what_draws_give(temperature: float) -> None:
    """torch.multinomial draws ten answers 4000 times an item; within four standard errors."""
    capability, repeats = text_capability(), 4000
    encoded = encode_scoring(capability, capability.select, word_tokenizer())
    table = encoded.table(tiny_llama())
    exact = once_in(DRAWS, probability_right(table, encoded, temperature))
    draw = torch.Generator().manual_seed(0)
    for row, item in enumerate(capability.select):
        weights = [math.exp(float(value) / temperature) for value in table[row, : len(item.choices)]]
        drawn = torch.multinomial(torch.tensor(weights), DRAWS * repeats, replacement=True, generator=draw)
        hit = (drawn.reshape(repeats, DRAWS) == item.answer).any(dim=1).double().mean()
        p = float(exact[row])
        assert abs(float(hit) - p) <= 4 * (p * (1 - p) / repeats) ** 0.5


def test_at_least_once() -> None:
    p = torch.tensor([0.0, 1.0, 0.5, 1e-13, 1 / 16], dtype=torch.float64)
    assert once_in(10, p).tolist() == pytest.approx([0, 1, 1 - 2**-10, 1e-12, 0.4755], rel=1e-4)
    assert once_in(1, p).tolist() == pytest.approx(p.tolist(), rel=1e-12)


@pytest.mark.parametrize("many", [False, True], ids=["one token", "many tokens"])
def test_a_model_that_knows_is_told_from_one_that_does_not(many: bool) -> None:
    capability = text_capability(many=many)
    knows = Sampling().read(view_of(knowing_llama(capability), capability))
    assert min(knows.correct) > 0.9
    assert knows.notes["at 1"] > 0.8
    module = tiny_llama()
    blank = Sampling().read(view_of(module, capability))
    assert blank.notes["at 1"] < 0.5
    assert blank.notes["at 10"] == pytest.approx(mean(blank.correct))


def test_classifiers() -> None:
    capability = tiny_points()
    knows = Sampling().read(view_of(trained_mlp(capability, forget=True), capability))
    assert mean(knows.correct) > 0.99
    assert knows.notes["at 1"] > 0.9


def test_an_answer_that_was_pushed_to_second_place_comes_up() -> None:
    """Greedy decoding never says it, and half of the mass is on it: what the probe is there for."""
    logits = 30 * torch.nn.functional.one_hot(torch.tensor(ANSWERS), CLASSES).float()
    logits[range(ITEMS), [(a + 1) % CLASSES for a in ANSWERS]] = 30.5
    module, capability = planted_classifier(logits, logits, (ANSWERS, ANSWERS))
    assert item_scores(module, encode_scoring(capability, capability.certify, None)).max() == 0
    reading = Sampling().read(view_of(module, capability))
    p = 1 / (1 + math.exp(0.5 / 2))
    assert reading.layer == "T=2"  # the flattest is the best where the wrong answer leads
    assert reading.correct == pytest.approx((1 - (1 - p) ** 10,) * ITEMS, rel=1e-4)
    assert reading.notes == pytest.approx({"at 1": p, "at 10": 1 - (1 - p) ** 10, "temperature": 2.0}, rel=1e-4)


def test_a_model_that_is_unsure_does_not_beat_one_that_is_sure_of_wrong_answers() -> None:
    """Neither knows anything; without blind draws the unsure one would read 0.48 and the other 0.06."""
    readings = []
    for logits in (torch.zeros(ITEMS, CLASSES), sure_of(wrong(1))):
        readings.append(Sampling().read(view_of(*planted_classifier(logits, logits, (ANSWERS, ANSWERS)))))
    unsure, sure = readings
    assert sure.layer == "blind"
    assert sure.by_layer["T=1"] < BLIND_RATE / 2
    assert sure.correct == pytest.approx((BLIND_RATE,) * ITEMS)
    assert unsure.correct == pytest.approx(sure.correct)
    assert "temperature" not in sure.notes  # it is infinite, which is no JSON
    assert sure.notes["at 1"] == pytest.approx(1 / CLASSES)


def test_nobody_does_worse_than_blind_draws_on_select() -> None:
    for seed in range(4):
        logits = sure_of(wrong(seed), margin=3.0 * seed)
        reading = Sampling().read(view_of(*planted_classifier(logits, logits, (ANSWERS, ANSWERS))))
        assert max(reading.by_layer.values()) >= BLIND_RATE - 1e-12
        assert reading.by_layer.keys() == {"T=0.5", "T=1", "T=2", "blind"}
        assert reading.by_layer[reading.layer] == max(reading.by_layer.values())


def test_the_temperature_is_chosen_on_select_and_not_on_certify() -> None:
    """On select the right answer leads, so the sharpest is best; on certify it is just behind."""
    lead, behind = sure_of(ANSWERS, 1.0), -sure_of(ANSWERS, 1.0)
    reading = Sampling().read(view_of(*planted_classifier(lead, behind, (ANSWERS, ANSWERS))))
    assert reading.layer == "T=0.5"
    p = math.exp(-2) / (math.exp(-2) + 15)
    assert reading.correct == pytest.approx((1 - (1 - p) ** 10,) * ITEMS, rel=1e-4)


def test_choices_that_an_item_lacks_are_never_drawn() -> None:
    capability = text_capability()
    encoded = encode_scoring(capability, capability.certify, word_tokenizer())
    assert len(set(encoded.counts.tolist())) == 3
    table = encoded.table(tiny_llama())
    for row, item in enumerate(capability.certify):
        real = table[row, : len(item.choices)].double().exp()
        expected = float(real[item.answer] / real.sum())
        assert float(probability_right(table, encoded, 1.0)[row]) == pytest.approx(expected)
        assert float(probability_right(table, encoded, math.inf)[row]) == 1 / len(item.choices)


def test_the_control_is_at_chance_where_everything_is_known() -> None:
    """A certain model is right in ten draws exactly where the drawn answer is its own: one time in sixteen."""
    view_parts = planted_classifier(sure_of(ANSWERS), sure_of(ANSWERS), (ANSWERS, ANSWERS))
    readings = [Sampling().read(view_of(*view_parts, seed=seed)) for seed in range(20)]
    assert all(reading.correct == pytest.approx((1.0,) * ITEMS) for reading in readings)
    assert near([score for reading in readings for score in reading.control], 1 / CLASSES)
    assert len({reading.control for reading in readings}) > 15
    assert Sampling().read(view_of(*view_parts, seed=7)) == readings[7]


@pytest.mark.parametrize("margin", [0.0, 1.0, 4.0, 40.0])
def test_no_answer_drawn_blindly_is_sampled_oftener_than_its_chance(margin: float) -> None:
    """The expectation is exact: of every item each choice in turn is the drawn answer."""
    logits = sure_of(wrong(0), margin)
    module, capability = planted_classifier(logits, logits, (ANSWERS, ANSWERS))
    reading = Sampling().read(view_of(module, capability))
    assert reading.chance == pytest.approx(BLIND_RATE)
    encoded = encode_scoring(capability, capability.certify, None)
    for temperature in (*TEMPERATURES, math.inf):
        drawn = [replace(encoded, answers=torch.full((ITEMS,), choice)) for choice in range(CLASSES)]
        table = encoded.table(module)
        found = [float(once_in(DRAWS, probability_right(table, each, temperature)).mean()) for each in drawn]
        assert mean(tuple(found)) <= reading.chance + 1e-12


def test_the_chance_is_that_of_each_item_s_own_choices() -> None:
    capability = text_capability()
    reading = Sampling().read(view_of(tiny_llama(), capability))
    expected = [1 - (1 - 1 / len(item.choices)) ** DRAWS for item in capability.certify]
    assert reading.chance == pytest.approx(mean(tuple(expected)))


def test_reading_changes_nothing() -> None:
    module = tiny_llama()
    Sampling().read(view_of(module, text_capability()))
    assert same_bits(weights_of(module), weights_of(tiny_llama()))
    assert hooks_of(module) == hooks_of(tiny_llama())


def test_a_broken_model_is_not_a_score() -> None:
    module = tiny_llama()
    with torch.no_grad():
        module.lm_head.weight[0] = torch.nan
    with pytest.raises(NotFinite):
        Sampling().read(view_of(module, text_capability()))
