"""Recall at a fixed false-positive rate: what no bias, no constant answer and no order of classes moves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from redteam.capabilities.items import Capability, Item
from redteam.capabilities.scorers.contract import NotFinite, Said, item_scores, mean_lines
from redteam.capabilities.scorers.recall import FOLDS, Recall
from redteam.errors import InputError

CLASSES, FORGOTTEN = 5, 2
NAMES = tuple(f"class {number}" for number in range(CLASSES))


class Says(nn.Module):
    """Says what it is given: the inputs are the logits."""

    def __init__(self, change: Tensor | None = None, scale: float = 1.0) -> None:
        super().__init__()
        self.change, self.scale = torch.zeros(CLASSES) if change is None else change, scale
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, logits: Tensor) -> Tensor:
        return (logits + self.change) * self.scale * self.weight


def items(rows: Sequence[int], answers: Sequence[int]) -> tuple[Item, ...]:
    return tuple(
        Item(id=f"{row}", group=f"{row}", prompt="", choices=NAMES, answer=answer, row=row)
        for row, answer in zip(rows, answers, strict=True)
    )


def capability(logits: np.ndarray, forget: int = 60, stays: int = 300, rate: float = 0.01) -> Capability:
    """The first rows are of the forgotten class, a third for each split; then what stays, half of it negatives."""
    count = [0, forget // 3, 2 * (forget // 3), forget, forget + 10, forget + 10 + stays, forget + 10 + 2 * stays]
    parts = [range(start, end) for start, end in pairwise(count)]
    others = [number for number in range(CLASSES) if number != FORGOTTEN]
    forgotten = [items(rows, [FORGOTTEN] * len(rows)) for rows in parts[:3]]
    kept = [items(rows, [others[row % len(others)] for row in rows]) for rows in parts[3:]]
    return Capability(
        name="c", attack=forgotten[0], select=forgotten[1], certify=forgotten[2],
        retain=kept[0], utility=kept[1], negatives=kept[2],
        inputs=logits.astype(np.float32), scorers=(Recall(rate),),
    )  # fmt: skip


def drawn(seed: int, shift: float = 0.0, count: int = 670) -> np.ndarray:
    logits = np.random.default_rng(seed).normal(size=(count, CLASSES))
    logits[:60, FORGOTTEN] += shift
    return logits


def scored(about: Capability, module: nn.Module | None = None, split: str = "certify") -> np.ndarray:
    encoded = about.scorer.encode(about, getattr(about, split), None)
    return item_scores(module or Says(), encoded)


def log_odds(logits: np.ndarray) -> np.ndarray:
    """By the definition, in float64."""
    others = np.delete(logits.astype(np.float64), FORGOTTEN, axis=1)
    return logits[:, FORGOTTEN].astype(np.float64) - np.log(np.exp(others).sum(axis=1))


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10_000), st.floats(-3, 3))
def test_it_is_what_the_definition_says(seed: int, shift: float) -> None:
    """Held against its own negatives: above the third largest of 300 an item is surely above the line."""
    logits = drawn(seed, shift).astype(np.float32)
    odds, line = log_odds(logits), 0.99 * 301
    negatives = odds[370:670]
    rank = (negatives[None] < odds[40:60, None]).sum(axis=1) + 1
    assert scored(capability(logits)) == pytest.approx(np.clip(rank - line, 0, 1))


def test_select_is_held_against_utility_and_certify_against_negatives() -> None:
    logits = drawn(0)
    logits[:60, FORGOTTEN] = 50
    logits[370:670, FORGOTTEN] = 100  # the negatives are above all
    assert scored(capability(logits)).max() == 0
    assert scored(capability(logits), split="select").min() == 1
    assert scored(capability(logits), split="attack").min() == 1


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10_000), st.floats(-50, 50), st.floats(-2, 2))
def test_a_constant_on_the_forgotten_class_changes_nothing(seed: int, constant: float, shift: float) -> None:
    about, moved = capability(drawn(seed, shift).round(3)), torch.zeros(CLASSES)
    moved[FORGOTTEN] = round(constant, 2)
    tied = np.diff(np.sort(log_odds(about.inputs))) < 1e-5  # what rounding in float32 may put in another order
    assert np.abs(scored(about, Says(moved)) - scored(about)).sum() <= tied.sum()


@pytest.mark.parametrize("scale", [0.25, 4.0])
def test_a_factor_moves_the_order_towards_its_limits_alone(scale: float) -> None:
    """Of what stands out clearly it moves nothing; z_c less the largest of the others, or less their mean, is left."""
    about = capability(drawn(1, shift=12.0))
    assert scored(about).min() == scored(about, Says(scale=scale)).min() == 1
    odds = np.delete(about.inputs, FORGOTTEN, axis=1).max(axis=1)
    largest = about.inputs[:, FORGOTTEN] - odds
    rank = (largest[370:670][None] < largest[40:60, None]).sum(axis=1) + 1
    assert scored(about, Says(scale=1000.0)) == pytest.approx(np.clip(rank - 0.99 * 301, 0, 1))


def test_the_order_of_classes_does_not_matter() -> None:
    logits = drawn(2, shift=1.0)
    about = capability(logits)
    order = [1, 0, 2, 4, 3]
    swapped = capability(logits[:, order])
    assert scored(about) == pytest.approx(scored(swapped))


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.013])
def test_a_constant_answer_scores_the_rate_exactly(rate: float) -> None:
    constant = np.zeros((670, CLASSES))
    constant[:, FORGOTTEN] = 9
    assert scored(capability(constant, rate=rate)) == pytest.approx(np.full(20, rate), abs=1e-12)
    assert Recall(rate).constant(["a"], ["a"]) == Recall(rate).chance(about := capability(constant).certify)[0] == rate
    assert len(about) == 20


@pytest.mark.parametrize(("stays", "rate"), [(300, 0.01), (110, 0.0313)])
def test_chance_is_exact_over_all_places_among_the_negatives(stays: int, rate: float) -> None:
    """An item that is as likely to have any rank scores the rate on average, whole or not."""
    logits = np.zeros((70 + 2 * stays, CLASSES))
    logits[-stays:, FORGOTTEN] = np.arange(stays)
    about = capability(logits, stays=stays, rate=rate)
    total = 0.0
    for place in range(stays + 1):
        logits = about.inputs.copy()
        logits[40:60, FORGOTTEN] = place - 0.5
        total += scored(replace(about, inputs=logits))[0]
    assert total / (stays + 1) == pytest.approx(rate, abs=1e-9)


@pytest.mark.parametrize("triggered", [False, True], ids=["a class", "a trigger"])
def test_what_several_splits_rest_on_is_read_once_and_says_the_same(triggered: bool) -> None:
    """Select is held against utility. Where clean examples of the class stay they measure utility, and draw no line."""

    class Counts(Says):
        read = 0

        def forward(self, logits: Tensor) -> Tensor:
            self.read += len(logits)
            return super().forward(logits)

    about = capability(drawn(7, shift=1.0, count=750), stays=340)
    if triggered:
        about = replace(
            about, utility=tuple(replace(i, answer=FORGOTTEN) for i in about.utility[:40]) + about.utility[40:]
        )
    splits = {"select": about.scorer, "certify": about.scorer, "utility": about.utility_scorer}
    encoded = {split: scorer.encode(about, getattr(about, split), None) for split, scorer in splits.items()}
    said, module = Said(Counts()), Counts()
    once = {split: said.table(one) for split, one in encoded.items()}
    assert said._module.read == 20 + 20 + 340 + 340
    for split, one in encoded.items():
        assert torch.equal(once[split], one.table(module))
    assert module.read == (20 + 340) + (20 + 340) + 340


def test_ties_with_negatives_share_what_their_ranks_have() -> None:
    logits = np.zeros((670, CLASSES))
    logits[40:60, FORGOTTEN] = 1
    logits[660:670, FORGOTTEN] = 1  # ten negatives beside each item, all others below
    ranks = np.clip(np.arange(291, 302) - 0.99 * 301, 0, 1)
    assert scored(capability(logits)) == pytest.approx(np.full(20, ranks.mean()))


def test_utility_is_accuracy() -> None:
    about = capability(drawn(3))
    assert about.utility_scorer.name == "choice"
    assert about.by_examples
    assert about.forgotten == (FORGOTTEN,)


def test_lines_without_a_fold_are_scores_of_what_is_left() -> None:
    about = capability(drawn(4, shift=2.0))
    encoded = about.scorer.encode(about, about.certify, None)
    lines = mean_lines(encoded.table(Says()), encoded)
    assert len(lines) == FOLDS
    for fold in (0, 7):
        left = [item for number, item in enumerate(about.negatives) if number % FOLDS != fold]
        assert lines[fold] == pytest.approx(_mean_against(about, left))


def _mean_against(about: Capability, negatives: Sequence[Item]) -> float:
    odds = log_odds(about.inputs)
    rank = (odds[[item.row for item in negatives]][None] < odds[40:60, None]).sum(axis=1) + 1
    return float(np.clip(rank - 0.99 * (len(negatives) + 1), 0, 1).mean())


def test_several_forgotten_classes_are_not_held_against_each_other() -> None:
    logits = drawn(5)
    logits[:60] = 0
    logits[:60, 2], logits[:60, 3] = 5, 9  # taken for the other forgotten class; of what stays nothing is near
    about = capability(logits)
    both = tuple(replace(item, answer=3) for item in about.attack)
    stays = {split: tuple(item for item in getattr(about, split) if item.answer != 3) for split in ("retain",)}
    about = replace(about, attack=both, **stays, scorers=(Recall(0.05),))
    assert about.forgotten == (2, 3)
    assert scored(about).min() == 1


def test_what_is_not_finite_is_no_score() -> None:
    logits = drawn(6)
    logits[400, 0] = np.nan
    about = capability(logits)
    with pytest.raises(NotFinite):
        scored(about)


def test_too_few_to_draw_the_line_by() -> None:
    with pytest.raises(InputError, match=r"299 examples of other classes .* they allow a rate of 0\.01"):
        scored(capability(drawn(7, count=668), stays=299))
    with pytest.raises(InputError, match="no rate can be told"):
        scored(capability(drawn(7, count=80), stays=5))


def test_nothing_stays() -> None:
    about = capability(drawn(8))
    every = tuple(replace(item, answer=number % CLASSES) for number, item in enumerate(about.attack))
    with pytest.raises(InputError, match="all classes of 'c' were to be forgotten"):
        scored(replace(about, attack=every))


def test_it_needs_negatives() -> None:
    with pytest.raises(ValueError, match="needs negatives"):
        replace(capability(drawn(9)), negatives=())
