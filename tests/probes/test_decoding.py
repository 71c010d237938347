"""The probes of hidden states on states whose content is known: what all have in common, and what each does alone."""

from __future__ import annotations

import warnings
from collections import Counter
from dataclasses import replace
from functools import partial
from typing import Protocol

import numpy as np
import pytest
from planted_states import (
    CHANCE,
    WIDTH,
    accuracy,
    crossed,
    items_of,
    layers,
    mixed,
    near_chance,
    planted,
    splits,
)
from tiny_models import make_item, tiny_capability, tiny_llama
from tiny_views import near, view_of

from redteam.capabilities.items import Capability, Item
from redteam.probes.contract import Layers, Part, Probe, ProbeContext, ProbeReading
from redteam.probes.decoding import (
    Answers,
    Place,
    Reader,
    Scores,
    States,
    answers_of,
    learning,
    no_more_than_usual,
    read_places,
    right_among_choices,
    shuffled,
)
from redteam.probes.erasure import eraser, read_erased
from redteam.probes.linear import LinearProbe, fit_logistic
from redteam.probes.mdl import DescriptionLength, learn_code, online_code
from redteam.probes.means import MeansProbe, fit_means
from redteam.probes.mlp import MLPProbe, learn_network


class OnStates(Probe, Protocol):
    """A probe that takes states that were read already."""

    def read_layers(self, train: Layers, select: Layers, certify: Layers, seed: int) -> ProbeReading: ...


PROBES: tuple[OnStates, ...] = (LinearProbe(), MLPProbe(), MeansProbe(), DescriptionLength())
each = pytest.mark.parametrize("probe", PROBES, ids=lambda probe: probe.name)
ERASING = (LinearProbe.name, MeansProbe.name)


def rows_of(part: Layers, rows: slice) -> Layers:
    return Layers(items=part.items[rows], states={name: states[rows] for name, states in part.states.items()})


# What all have in common.


@each
def test_reads_a_linearly_planted_answer(probe: OnStates) -> None:
    reading = probe.read_layers(*splits(a=3.0), 0)
    assert accuracy(reading.correct) > (0.85 if probe.name == "mdl" else 0.98)
    assert 0 <= min(reading.correct) <= max(reading.correct) <= 1
    assert len(reading.correct) == len(reading.control) == 400
    assert bool(reading.erased) == (probe.name in ERASING)


@each
def test_only_the_network_reads_what_is_in_no_direction(probe: OnStates) -> None:
    reading = probe.read_layers(crossed(200, 1), crossed(100, 2), crossed(400, 3), 0)
    if probe.name == "mlp":
        assert accuracy(reading.correct) > 0.95
    else:
        assert accuracy(reading.correct) < 0.6


@each
def test_states_without_information_are_at_chance(probe: OnStates) -> None:
    """Six empty layers: the best on select is above chance there, and not on certify."""
    reading = probe.read_layers(*splits(**{f"layer{i}": 0.0 for i in range(6)}), 0)
    assert max(reading.by_layer.values()) > reading.by_layer["layer0" if probe.name != "means" else "layer0, plain"]
    assert near(reading.correct, CHANCE)
    assert near(reading.control, CHANCE)


@each
def test_the_control_is_at_chance_where_the_probe_reads_everything(probe: OnStates) -> None:
    """Over several shuffles, as each of them agrees with the truth by luck on some answers."""
    parts = splits(a=3.0)
    controls = [accuracy(probe.read_layers(*parts, seed).control) for seed in range(8)]
    assert abs(sum(controls) / 8 - CHANCE) < 0.15
    assert len(set(controls)) > 4  # the seed shuffles


@each
def test_the_place_is_chosen_on_select_and_not_on_certify(probe: OnStates) -> None:
    """Two layers that are both readable in training; each of the held-out splits sees only one of them."""
    train = layers(120, 1, left=3.0, right=3.0)
    select, certify = layers(80, 2, left=0.0, right=3.0), layers(400, 3, left=3.0, right=0.0)
    reading = probe.read_layers(train, select, certify, 0)
    assert reading.layer.startswith("right")
    assert reading.by_layer[reading.layer] == max(reading.by_layer.values())
    assert near(reading.correct, CHANCE)


@each
def test_certify_plays_no_part_in_what_is_learned(probe: OnStates) -> None:
    """Each item is read alike alone and among others, but for rounding: no mean or choice is taken over certify."""
    train, select, certify = layers(120, 1, a=0.5, b=0.4), layers(80, 2, a=0.5, b=0.4), layers(60, 3, a=0.5, b=0.4)
    whole = probe.read_layers(train, select, certify, 0)
    for rows in (slice(0, 1), slice(7, 19), slice(59, 60)):
        reading = probe.read_layers(train, select, rows_of(certify, rows), 0)
        assert reading.correct == pytest.approx(whole.correct[rows], abs=1e-6)
        assert reading.control == pytest.approx(whole.control[rows], abs=1e-6)
        assert reading.erased == pytest.approx(whole.erased[rows], abs=1e-6)
        assert (reading.layer, reading.by_layer, reading.notes) == (whole.layer, whole.by_layer, whole.notes)


@each
def test_deterministic_for_a_seed(probe: OnStates) -> None:
    parts = splits(a=0.3, b=0.2)
    assert probe.read_layers(*parts, 3) == probe.read_layers(*parts, 3)
    assert probe.read_layers(*parts, 3).control != probe.read_layers(*parts, 4).control


@each
def test_no_generator_but_its_own_is_drawn_from(probe: OnStates) -> None:
    before = np.random.get_state()[1].tolist()
    probe.read_layers(*splits(a=0.3), 3)
    assert np.random.get_state()[1].tolist() == before


@each
def test_nothing_is_warned_about(probe: OnStates) -> None:
    """Unfinished fits are expected, and so are answers that occur once; nobody can act on either."""
    items = tuple(make_item(n, choices=(f"a{n}", f"b{n}"), answer=n % 2) for n in range(24))
    rare = Layers(items=items, states={"a": planted(items_of(24, 1), 1)})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        probe.read_layers(*splits(a=0.1), 0)
        probe.read_layers(rare, *splits(a=0.1)[1:], 0)


@each
def test_only_the_items_own_choices_compete(probe: OnStates) -> None:
    """Answers of two kinds in one split: chance is one half, and what is planted is read."""
    empty = probe.read_layers(mixed(120, 1), mixed(80, 2), mixed(1000, 3), 0)
    assert near(empty.correct, 0.5)
    assert near(empty.control, 0.5)
    told = probe.read_layers(*(mixed(count, seed, 3.0) for count, seed in ((120, 1), (80, 2), (400, 3))), 0)
    assert accuracy(told.correct) > 0.9


@each
def test_answers_that_were_never_seen_are_chance(probe: OnStates) -> None:
    train, select, _ = splits(a=3.0)
    strange = tuple(make_item(n, choices=("x", "y", "z", "u", "v"), answer=n % 5) for n in range(10))
    certify = Layers(items=strange, states={"a": planted(items_of(10, 3), 3)})
    assert probe.read_layers(train, select, certify, 0).correct == pytest.approx((0.2,) * 10)


@each
def test_a_learning_split_with_one_answer_is_read_at_chance(probe: OnStates) -> None:
    items = tuple(make_item(n, answer=2) for n in range(6))
    _, select, certify = splits(a=3.0)
    reading = probe.read_layers(Layers(items=items, states={"a": planted(items, 1)}), select, certify, 0)
    assert reading.correct == reading.control == (CHANCE,) * 400
    assert list(reading.by_layer.values()) == pytest.approx([CHANCE] * len(reading.by_layer))


@each
def test_states_are_read_only(probe: OnStates) -> None:
    parts = splits(a=1.0)
    before = [part.states["a"].copy() for part in parts]
    probe.read_layers(*parts, 0)
    assert all(np.array_equal(part.states["a"], then) for part, then in zip(parts, before, strict=True))


# What is learnt from.


def view_with(parts: dict[str, Layers], asked: list[str]) -> ProbeContext:
    """A view whose states are given."""

    def layers_of(part: Part) -> Layers:
        asked.append(part)
        return parts[part]

    items = {name: part.items for name, part in parts.items()}
    capability = Capability(name="planted", utility=parts["select"].items, **items)
    return replace(view_of(tiny_llama(), tiny_capability()), capability=capability, layers=layers_of)


def of_answers(count: int, seed: int, answers: tuple[int, ...]) -> Layers:
    items = tuple(make_item(seed * 1000 + n, answer=answers[n % len(answers)]) for n in range(count))
    return Layers(items=items, states={"a": planted(items, seed)})


def forgotten_class() -> dict[str, Layers]:
    """All that is forgotten is of class 2; what stays is of the others."""
    parts = {part: of_answers(30, seed, (2,)) for seed, part in enumerate(("attack", "select", "certify"))}
    return {**parts, "retain": of_answers(90, 3, (0, 1, 3))}


def test_a_forgotten_class_is_learnt_beside_what_stays() -> None:
    parts = forgotten_class()
    learnt = learning(view_with(parts, []))
    assert learnt.items == parts["attack"].items + parts["retain"].items
    assert np.array_equal(learnt.states["a"][:30], parts["attack"].states["a"])
    assert np.array_equal(learnt.states["a"][30:], parts["retain"].states["a"])


def test_different_answers_are_learnt_from_the_attack_split_alone() -> None:
    asked: list[str] = []
    parts = {**forgotten_class(), "attack": of_answers(30, 0, (2, 2, 1))}
    assert learning(view_with(parts, asked)) is parts["attack"]
    assert asked == ["attack"]


def test_two_forgotten_classes_are_learnt_beside_what_stays_too() -> None:
    """Else a probe that knows nothing is right half of the time, and erasing the answer seems to fail."""
    parts = {part: of_answers(60, seed, (2, 3)) for seed, part in enumerate(("attack", "select", "certify"))}
    parts["retain"] = of_answers(90, 3, (0, 1))
    view = replace(view_with(parts, []), tokenizer=None)
    assert len(learning(view).items) == 150
    reading = LinearProbe().read(view)
    assert np.mean(reading.correct) > 0.9
    assert np.mean(reading.erased) <= 0.3  # four classes; half were two


@pytest.mark.parametrize(
    ("removed", "others", "left"),
    [
        ([2] * 30, [0, 1, 3] * 30, {"a0": 30, "a1": 30, "a2": 30, "a3": 30}),
        ([2] * 50, [0, 1, 3] * 30, {"a0": 30, "a1": 30, "a2": 30, "a3": 30}),
        ([2] * 20, [0, 1, 3, 2] * 30, {"a0": 30, "a1": 30, "a2": 30, "a3": 30}),  # a trigger: its class stays
        ([2, 3] * 40, [0, 1] * 30, {"a0": 30, "a1": 30, "a2": 30, "a3": 30}),
        ([2] * 9, [0] * 2 + [1] * 5 + [3] * 30, {"a0": 2, "a1": 5, "a2": 5, "a3": 30}),
        ([2] * 9, [], {"a2": 9}),
    ],
)
def test_a_removed_answer_is_no_more_frequent_than_others(removed: list[int], others: list[int], left) -> None:
    answers = np.array([f"a{answer}" for answer in [*removed, *others]])
    rows = no_more_than_usual(answers, len(removed), 0)
    assert Counter(answers[rows].tolist()) == left
    assert rows.tolist() == sorted(set(rows.tolist()))
    shown, kept = (Counter(answers[: len(removed)]), Counter(answers[[row for row in rows if row < len(removed)]]))
    assert kept == {answer: min(count, left[answer]) for answer, count in shown.items()}  # what was removed stays first


def test_a_probe_that_can_learn_nothing_of_a_trigger_is_not_right_of_it_by_naming_the_commonest_answer() -> None:
    """Most of what is learnt from has the removed answer: naming it blindly must not look like reading it."""
    parts = {part: of_answers(60, seed, (2,)) for seed, part in enumerate(("attack", "select", "certify"))}
    parts["retain"] = of_answers(160, 3, (0, 1, 2, 3))
    reading = LinearProbe().read(replace(view_with(parts, []), tokenizer=None))
    assert np.mean(reading.correct) > 0.9
    assert np.mean(reading.erased) <= 0.3
    assert np.mean(reading.control) <= 0.5


def test_where_nothing_stays_there_is_nothing_to_add() -> None:
    parts = forgotten_class()
    parts["retain"] = rows_of(parts["retain"], slice(0))
    assert learning(view_with(parts, [])) is parts["attack"]


@each
def test_a_forgotten_class_is_read(probe: OnStates) -> None:
    """And where the class looks like one that stays, the others do not help."""
    reading = probe.read(view_with(forgotten_class(), []))
    assert accuracy(reading.correct) > 0.8
    gone = {name: part for name, part in forgotten_class().items() if name == "retain"}
    for seed, part in enumerate(("attack", "select", "certify")):
        like_another = planted(of_answers(30, seed, (1,)).items, seed + 10)
        gone[part] = Layers(items=of_answers(30, seed, (2,)).items, states={"a": like_another})
    assert accuracy(probe.read(view_with(gone, [])).correct) < 0.75


# Choices, shuffles and ties.


class Table:
    """A decoder that says what it is given."""

    classes = ("w0", "w1", "w3")

    def table(self, states: States) -> Scores:
        return states.astype(np.float64)


def test_the_highest_score_among_the_own_choices_wins_and_ties_are_shared() -> None:
    items = tuple(make_item(0, choices=("w3", "w1", "w2"), answer=answer) for answer in (0, 1, 2, 0, 0, 1))
    states = np.array([[9, 1, 2], [9, 1, 2], [0, 0, 0], [9, 1, 1], [9, 1, 1 + 1e-9], [0, 1, 1.1]], dtype=np.float64)
    assert right_among_choices(Table(), states, items).tolist() == [1, 0, 0, 0.5, 0.5, 0]


def test_shuffled_answers_are_choices_as_frequent_as_they_are_right_elsewhere() -> None:
    kinds = (("w0", "w1", "w2"), ("w3", "w4"), ("w2", "w5"))
    items = tuple(make_item(n, choices=kinds[n % 3], answer=n // 3) for n in range(300))
    answers = shuffled(items, 0)
    assert all(answer in item.choices for answer, item in zip(answers.tolist(), items, strict=True))
    right, drawn = Counter(item.completion for item in items), Counter(answers.tolist())
    assert right["w2"] > right["w0"]  # of two kinds of items
    # 100 items choose among w0, w1 and w2 as often as each is right, and 100 between w2 and w5.
    expected = 100 * right["w2"] * (1 / (right["w0"] + right["w1"] + right["w2"]) + 1 / (right["w2"] + right["w5"]))
    assert abs(drawn["w2"] - expected) < 4 * 50**0.5
    for kind in range(3):
        kept = (answers == answers_of(items))[kind::3].mean()
        assert 0.2 < kept < 0.65  # a third to a half by luck


def test_answers_that_no_other_item_has_are_shuffled_too() -> None:
    """Each item has choices of its own, so that no two can swap: a quarter keeps its answer, by luck."""
    items = tuple(make_item(n, choices=tuple(f"{n}-{c}" for c in range(4)), answer=n % 4) for n in range(400))
    kept = [(shuffled(items, seed) == answers_of(items)).mean() for seed in range(20)]
    assert abs(np.mean(kept) - 0.25) < 0.02


def test_an_items_own_answer_counts_for_nothing_when_its_label_is_drawn() -> None:
    """Of two items that may have either answer, each has only ever seen the other's."""
    items = tuple(make_item(n, choices=("w0", "w1"), answer=n) for n in range(2))
    assert all(shuffled(items, seed).tolist() == ["w1", "w0"] for seed in range(20))


def test_merit_chooses_and_the_earliest_of_equals() -> None:
    def place(score: float) -> Place:
        return Place("a", lambda states, answers: lambda states, items: np.full(len(items), score))

    parts = splits(a=0.0)
    places = {"low": place(0.2), "high": place(0.7), "also high": place(0.7)}
    assert read_places(places, *parts, 0).layer == "high"
    reading = read_places(places, *parts, 0, merit=lambda scores: -float(scores.mean()))
    assert reading.layer == "low"
    assert reading.by_layer == pytest.approx({"low": -0.2, "high": -0.7, "also high": -0.7})
    assert set(reading.correct) == {0.2}


# Means.


def test_directions_by_hand() -> None:
    states = np.array([[0, 1], [2, 3], [10, 0], [12, 2], [0, 20], [2, 24]], dtype=np.float32)
    answers = np.array(["a", "a", "b", "b", "c", "c"])
    fitted = fit_means(states, answers, whiten=False)
    assert fitted.classes == ("a", "b", "c")
    theta = np.array([1, 2]) - np.array([6, 11.5])  # "a" against the four others
    middle = (np.array([1, 2]) + np.array([6, 11.5])) / 2
    variance = (1 + (1 + 1 + 4) / 3) / 2  # mean of both dimensions, within answers
    h = np.array([[5.0, 7.0]])
    assert fitted.table(h)[0, 0] == pytest.approx((h[0] - middle) @ theta / variance)


def test_two_answers_are_cut_halfway_between_their_means() -> None:
    train = items_of(400, 1, classes=2)
    states = planted(train, 1, strength=0.5) * np.logspace(-1, 1, WIDTH, dtype=np.float32)
    fitted = fit_means(states, answers_of(train), whiten=True)
    means = np.stack([states[answers_of(train) == answer].mean(axis=0) for answer in ("w0", "w1")])
    table = fitted.table(np.stack([*means, means.mean(axis=0)]))
    assert table[2] == pytest.approx([0, 0], abs=1e-6)
    assert table[0] == pytest.approx(-table[1], rel=1e-6)
    assert table[0, 0] > 0


def test_a_strong_direction_that_says_nothing_is_whitened_away() -> None:
    """Plain means are lost in it; the variant is chosen on select."""
    parts = []
    for part, seed in zip(splits(a=1.0), range(3), strict=True):
        nuisance = np.random.default_rng([seed, 9]).normal(size=(len(part.items), 1))
        loud = 10 * nuisance * np.random.default_rng(9).normal(size=WIDTH)
        parts.append(Layers(items=part.items, states={"a": (part.states["a"] + loud).astype(np.float32)}))
    reading = MeansProbe().read_layers(*parts, 0)
    assert list(reading.by_layer) == ["a, plain", "a, whitened"]
    assert reading.layer == "a, whitened"
    assert reading.by_layer["a, plain"] < 0.6 < 0.85 < accuracy(reading.correct)


def test_the_scale_of_a_dimension_does_not_matter_to_the_whitened() -> None:
    scale = np.logspace(-4, 4, WIDTH).astype(np.float32)
    part, held_out = splits(a=1.0)[::2]
    plain = fit_means(part.states["a"], answers_of(part.items), whiten=True)
    scaled = fit_means(part.states["a"] * scale, answers_of(part.items), whiten=True)
    assert scaled.table(held_out.states["a"] * scale) == pytest.approx(plain.table(held_out.states["a"]), abs=1e-3)


# Description length.


def test_planted_answers_are_short_and_noise_is_not() -> None:
    told, noise = (DescriptionLength().read_layers(*splits(a=s), 0).notes for s in (3.0, 0.0))
    assert told["uniform bits"] == noise["uniform bits"] == 2
    assert told["bits"] < 0.8
    assert told["compression"] == pytest.approx(2 / told["bits"])
    assert 1.95 < noise["bits"] < 2.4
    assert min(told["control bits"], noise["control bits"]) > 1.95
    assert max(told["control bits"], noise["control bits"]) < 2.4


def test_what_is_learnt_from_fewer_items_is_shorter() -> None:
    bits = [DescriptionLength().read_layers(*splits(a=s), 0).notes["bits"] for s in (3.0, 1.0, 0.5, 0.2)]
    assert bits == sorted(bits)
    assert bits[-1] - bits[0] > 0.5


def test_blocks_are_sent_with_what_went_before() -> None:
    """Of 32 items 2 are sent blindly, and then 2, 4, 8 and 16; each item goes once, after other groups only."""
    items = tuple(
        make_item(n, choices=tuple(f"w{c}" for c in range(32)), answer=n, group=f"g{n // 2}") for n in range(32)
    )
    states = np.arange(32, dtype=np.float32)[:, None]
    log: list[tuple[int, list[int]]] = []

    def learn(known: States, answers: Answers) -> Reader:
        def read(block: States, sent: tuple[Item, ...]) -> Scores:
            assert [item.answer for item in sent] == block[:, 0].tolist()
            assert not set(known[:, 0] // 2) & set(block[:, 0] // 2)
            assert answers.tolist() == [f"w{int(row)}" for row in known[:, 0]]
            log.append((len(known), block[:, 0].tolist()))
            return np.full(len(block), 1 / len(known))

        return read

    bits = online_code(Place("a", learn), states, items, answers_of(items), 0)
    assert [(known, len(block)) for known, block in log] == [(2, 2), (4, 4), (8, 8), (16, 16)]
    assert len({row for _, block in log for row in block}) == 30
    assert bits == pytest.approx((2 * 5 + 2 * 1 + 4 * 2 + 8 * 3 + 16 * 4) / 32)
    once = [block for _, block in log]
    log.clear()
    online_code(Place("a", learn), states, items, answers_of(items), 1)
    assert [block for _, block in log] != once


def test_few_groups_still_have_a_code() -> None:
    part = layers(12, 1, a=3.0)
    items = tuple(replace(item, group=f"g{n % 3}") for n, item in enumerate(part.items))
    place = Place("a", learn_code)
    assert 0 < online_code(place, part.states["a"], items, answers_of(items), 0) < 6
    alone = tuple(replace(item, group="g") for item in items)
    assert online_code(place, part.states["a"], alone, answers_of(items), 0) == pytest.approx(2)


def test_probabilities_of_the_choices_sum_to_one_and_none_is_zero() -> None:
    part = layers(40, 1, a=3.0)
    choices = ("w0", "w1", "w2", "w9", "w8")  # two were never an answer, and one answer is no choice
    read = learn_code(part.states["a"], answers_of(part.items))
    asked = [tuple(make_item(n, choices=choices, answer=c) for n in range(40)) for c in range(5)]
    table = np.stack([read(part.states["a"], items) for items in asked])
    assert table.sum(axis=0) == pytest.approx(np.ones(40))
    seen = sum(item.completion in choices for item in part.items)
    assert table[3:] == pytest.approx(np.full((2, 40), 1 / (seen + 5)))
    assert table[:3].max() > 0.7


# Erasure.


def uneven(count: int, seed: int, strength: float = 3.0) -> Layers:
    """Half of the answers are w0."""
    items = tuple(make_item(n, answer=(0, 1, 0, 2, 0, 3)[n % 6]) for n in range(count))
    return Layers(items=items, states={"a": planted(items, seed, strength)})


@pytest.mark.parametrize("count", [300, 16])
def test_erased_states_do_not_vary_with_the_answer(count: int) -> None:
    """Also of fewer states than dimensions, and of scales that are far apart."""
    part = uneven(count, 1)
    states = part.states["a"] * np.logspace(-4, 4, WIDTH).astype(np.float32) + 5
    answers = answers_of(part.items)
    erased = eraser(states, answers)(states)
    one_hot = (answers[:, None] == np.unique(answers)).astype(float)

    def covariance(of: np.ndarray) -> float:
        return float(np.abs((of - of.mean(axis=0)).T @ (one_hot - one_hot.mean(axis=0)) / count).max())

    assert covariance((states - states.mean(axis=0)) / states.std(axis=0)) > 0.1
    assert covariance(erased) < 1e-9


def test_no_linear_probe_fits_erased_states_even_where_it_learns() -> None:
    """It does no better than the most frequent answer, however weak its regularisation."""
    part = uneven(300, 1)
    states, answers = part.states["a"], answers_of(part.items)
    erased = eraser(states, answers)(states)
    assert right_among_choices(fit_logistic(states, answers, 100.0), states, part.items).mean() > 0.98
    fitted = right_among_choices(fit_logistic(erased, answers, 100.0), erased, part.items)
    assert fitted.tolist() == [float(item.answer == 0) for item in part.items]


def test_erasure_takes_no_more_than_it_must() -> None:
    """Three directions of 24 tell four answers apart; the rest stays as it was, and so does another answer there."""
    part, other = uneven(300, 1), items_of(300, 9, classes=2)
    erased = eraser(part.states["a"], answers_of(part.items))(part.states["a"])
    assert np.linalg.matrix_rank(erased - erased.mean(axis=0), tol=1e-6) == WIDTH - 3
    sign = np.array([item.answer for item in other])[:, None] * np.random.default_rng(5).normal(size=WIDTH)
    both = (part.states["a"] + 3 * sign).astype(np.float32)
    erased = eraser(both, answers_of(part.items))(both)
    rest = fit_logistic(erased[:200], answers_of(other)[:200], 1.0)
    assert right_among_choices(rest, erased[200:], other[200:]).mean() > 0.9


def test_everything_is_erased_where_answers_are_as_many_as_dimensions() -> None:
    """What is left is rounding, which no scaling brings back."""
    items = tuple(make_item(n, choices=tuple(f"w{c}" for c in range(28)), answer=n) for n in range(280))
    directions = np.random.default_rng(1).normal(size=(28, WIDTH))
    noise = np.random.default_rng(2).normal(size=(280, WIDTH))
    states = (3 * directions[[item.answer for item in items]] + noise).astype(np.float32)
    assert np.array_equal(eraser(states, answers_of(items))(states), np.zeros((280, WIDTH)))


def test_erasure_leaves_certify_at_chance() -> None:
    for probe in (LinearProbe(), MeansProbe()):
        reading = probe.read_layers(*splits(a=3.0), 0)
        assert accuracy(reading.correct) > 0.98
        assert near_chance(reading.erased)


def test_the_erasure_control_learns_from_and_reads_the_erased_states_of_its_place() -> None:
    train, _, certify = splits(a=0.0, b=3.0)
    answers, seen = answers_of(train.items), []

    def learn(states: States, taught: Answers) -> Reader:
        assert taught.tolist() == answers.tolist()
        seen.append(states)

        def read(others: States, items: tuple[Item, ...]) -> Scores:
            assert items == certify.items
            seen.append(others)
            return np.linspace(0, 1, len(items))

        return read

    assert read_erased(Place("b", learn), train, certify) == tuple(np.linspace(0, 1, 400).tolist())
    erase = eraser(train.states["b"], answers)
    assert np.array_equal(seen[0], erase(train.states["b"]))
    assert np.array_equal(seen[1], erase(certify.states["b"]))


def test_an_answer_that_occurs_once_in_thousands_is_erased_too() -> None:
    items = tuple(make_item(n, answer=n % 3 if n else 3) for n in range(3000))
    states, answers = planted(items, 1), answers_of(items)
    erased = eraser(states, answers)(states)
    assert np.linalg.norm(states[0] - states.mean(axis=0)) > 1
    assert np.abs(erased[0] - erased.mean(axis=0)).max() < 1e-6


def test_a_network_reads_on_what_no_linear_probe_could() -> None:
    """LEACE promises nothing there, so that the network has no such control."""
    train, certify = crossed(200, 1), crossed(400, 3)
    assert accuracy(read_erased(Place("a", partial(learn_network, seed=0)), train, certify)) > 0.9


def test_choices_of_which_only_the_right_one_is_ever_right_are_decoded_from_shuffled_answers() -> None:
    """The wrong choices of an item are no answers of others: what could be right shows, whatever the states hold."""
    rng, kinds = np.random.default_rng(0), 4

    def items(count: int, first: int) -> tuple[Item, ...]:
        wrong = [tuple(f"x{3 * n + k}" for k in range(3)) for n in range(first, first + count)]
        return tuple(make_item(n, choices=(f"w{n % kinds}", *others), answer=0) for n, others in enumerate(wrong))

    parts = [items(count, 500 * n) for n, count in enumerate((120, 80, 400))]
    layers = [Layers(items=p, states={"a": rng.normal(size=(len(p), WIDTH)).astype(np.float32)}) for p in parts]
    reading = LinearProbe().read_layers(*layers, 0)
    assert accuracy(reading.control) > 0.9
