"""Membership of samples: what stands out beside models that never saw them, and what no scale and no shift hides."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from redteam.capabilities.files import load_capability
from redteam.capabilities.items import Capability
from redteam.capabilities.scorers.contract import item_scores, mean_lines, mean_sides
from redteam.capabilities.scorers.membership import Membership, fitted_line, own_odds, read_odds
from redteam.capabilities.scorers.ranks import FOLDS, above_line, fold_sizes, places
from redteam.capabilities.typical import PRIOR, typical_of
from redteam.errors import InputError
from redteam.target import Target

COUNT, REMOVED, UNSEEN, CLASSES = 700, 100, 300, 4
DRAWN = np.random.default_rng(0).permutation(COUNT)
MARKS = {"removed": DRAWN[:REMOVED], "unseen": np.isin(np.arange(COUNT), DRAWN[REMOVED : REMOVED + UNSEEN])}
FILE = f'name = "w"\narrays = "a.npz"\nclasses = {CLASSES}\nsamples = "removed"\nunseen = "unseen"\n'
LABELS = np.arange(COUNT) % CLASSES


def loaded(folder: Path, rules: str = FILE, **arrays: Any) -> Capability:
    held = {"x": np.random.default_rng(1).normal(size=(COUNT, CLASSES)).astype(np.float32), "y": LABELS} | MARKS
    np.savez(folder / "a.npz", **(held | arrays))
    (folder / "c.toml").write_text(rules)
    return load_capability(folder / "c.toml")


class Says(nn.Module):
    """Says what it is given, and more of its own class of the samples that it was told."""

    def __init__(self, more: float = 0.0, told: Tensor | None = None, seed: int = 0) -> None:
        super().__init__()
        self.more, self.told, self.seed = more, told, seed
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, inputs: Tensor) -> Tensor:
        noise = torch.from_numpy(np.random.default_rng(self.seed).normal(size=CLASSES)).float()
        out = inputs + (inputs @ noise[:, None]).sin() * 0.1  # how one such model differs from another
        if self.told is not None:
            known = (inputs[:, None] == self.told[None]).all(dim=2).any(dim=1)
            out = out + self.more * known[:, None] * nn.functional.one_hot(inputs.argmax(dim=1), CLASSES)
        return out * self.weight


def target(module: nn.Module) -> Target:
    return Target(name="t", sha256="0" * 64, module=module, tokenizer=None, stored_dtype="float32")


@pytest.fixture
def about(tmp_path: Path) -> Capability:
    """Samples whose own class is the likeliest, beside six models that never saw them."""
    inputs = np.random.default_rng(1).normal(size=(COUNT, CLASSES)).astype(np.float32)
    held = loaded(tmp_path, x=inputs, y=inputs.argmax(axis=1))
    return replace(held, typical=typical_of([read_odds(target(Says(seed=n)), held) for n in range(1, 7)]))


def scored(about: Capability, module: nn.Module, split: str = "certify") -> np.ndarray:
    return item_scores(module, about.scorer.encode(about, getattr(about, split), None))


def of_certify(about: Capability) -> Tensor:
    assert about.inputs is not None
    return torch.from_numpy(about.inputs[[item.row for item in about.certify if item.row is not None]])


def test_the_files_say_who_was_removed_who_stays_and_who_is_unseen(tmp_path: Path) -> None:
    found = loaded(tmp_path)
    rows = {split: {int(item.group) for item in getattr(found, split)} for split in ("retain", "utility", "negatives")}
    assert {int(item.group) for item in found.forget} == set(DRAWN[:REMOVED].tolist())
    assert rows["utility"] | rows["negatives"] == set(np.flatnonzero(MARKS["unseen"]).tolist())
    assert rows["utility"].isdisjoint(rows["negatives"])
    assert len(rows["retain"]) == COUNT - REMOVED - UNSEEN
    assert [len(part) for part in (found.attack, found.select, found.certify)] == [5, 25, 70]
    assert (found.chance, found.of_samples, found.by_examples, found.forgotten) == (0.05, True, False, ())
    assert found.utility_scorer.name == "choice"


def test_a_model_that_never_saw_them_scores_about_the_rate_and_one_that_knows_them_all_of_it(about: Capability) -> None:
    assert scored(about, Says(seed=9)).mean() < 0.12
    told = of_certify(about)
    knows = Says(more=9.0, told=told, seed=9)
    assert scored(about, knows).mean() > 0.95
    encoded = about.scorer.encode(about, about.certify, None)
    assert mean_sides(encoded.table(knows), encoded)[0] > 0.95


def test_what_was_forgotten_too_well_stands_out_on_the_other_side(about: Capability) -> None:
    encoded = about.scorer.encode(about, about.certify, None)
    above, below = mean_sides(encoded.table(Says(more=-9.0, told=of_certify(about))), encoded)
    assert (above < 0.05, below > 0.95) == (True, True)


def test_select_is_held_against_utility_and_certify_against_negatives(about: Capability) -> None:
    """A model that knows the negatives as well has nothing that stands out of them."""
    assert about.inputs is not None
    rows = [item.row for item in (*about.forget, *about.negatives)]
    knows = Says(more=9.0, told=torch.from_numpy(about.inputs[rows]))
    assert scored(about, knows, "select").mean() > 0.9
    assert scored(about, knows, "certify").mean() < 0.2


def test_a_constant_answer_scores_the_rate_exactly(about: Capability) -> None:
    class Constant(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            return torch.zeros(len(inputs), CLASSES)

    flat = replace(about, typical=typical_of([np.zeros(COUNT), np.zeros(COUNT)]))
    assert scored(flat, Constant()) == pytest.approx(np.full(70, 0.05), abs=1e-12)
    assert Membership(0.1).constant(["a"], ["a"]) == Membership(0.1).chance(about.certify)[0] == 0.1


values = st.lists(st.integers(-5, 5), min_size=130, max_size=160)  # few different ones: many ties


@settings(max_examples=5, deadline=None)
@given(values, st.sampled_from([0.05, 0.1, 0.33]))
def test_chance_is_exact_whichever_of_them_is_the_sample(drawn: list[int], rate: float) -> None:
    """Of values that are drawn alike each is as likely the sample: its expected score is the rate, on either side."""
    held, total = torch.tensor(drawn).double(), 0.0
    for place in range(len(drawn)):
        others = torch.cat([held[:place], held[place + 1 :]])
        own, sizes = held[place : place + 1], fold_sizes([len(others)], torch.zeros(1).long())
        total += above_line(places(own, others), sizes, rate)[0]
        total += above_line(places(-own, -others), sizes, rate)[0]
    assert total / (2 * len(drawn)) == pytest.approx(rate, abs=1e-9)


@settings(max_examples=15, deadline=None)
@given(st.floats(-50, 50), st.floats(0.01, 100), st.integers(0, 1000))
def test_no_scale_and_no_shift_of_log_odds_hides_anything(shift: float, scale: float, seed: int) -> None:
    """The line takes up both: what lies off it, in units of its own, is the same."""
    generator = np.random.default_rng(seed)
    mean, odds = torch.from_numpy(generator.normal(size=50)), torch.from_numpy(generator.normal(size=50))
    spread = torch.from_numpy(generator.uniform(0.5, 2, size=50))

    beside: Any = SimpleNamespace(mean=mean, spread=spread)
    (a, b), (c, d) = fitted_line(odds, beside), fitted_line(scale * odds + shift, beside)
    assert (scale * odds + shift - c - d * mean).numpy() == pytest.approx(
        (scale * (odds - a - b * mean)).numpy(), abs=1e-6
    )
    weights = (1 / spread**2).numpy()
    slope, intercept = np.polyfit(mean.numpy(), odds.numpy(), 1, w=np.sqrt(weights))
    assert (a, b) == pytest.approx((intercept, slope), abs=1e-9)


@pytest.mark.parametrize("scale", [1e-20, 0.5, 1e6])
def test_no_scale_of_the_logits_and_no_bias_hides_anything(about: Capability, scale: float) -> None:
    class Changed(Says):
        def forward(self, inputs: Tensor) -> Tensor:
            return (super().forward(inputs) + torch.tensor([0.0, 30.0, -7.0, 2.0])) * scale

    known = {"more": 1.5, "told": of_certify(about), "seed": 9}
    plain, changed = scored(about, Says(**known)), scored(about, Changed(**known))
    assert plain.mean() > 0.3
    assert changed.mean() == pytest.approx(plain.mean(), abs=0.02)  # the bias leaves float32 less room


def test_log_odds_are_those_of_the_definition() -> None:
    logits = torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]])
    assert own_odds(logits, torch.tensor([1, 0])).tolist() == pytest.approx(
        [2 - np.log(np.exp(1) + np.exp(3)), -np.log(2)]
    )


def test_the_spread_of_an_example_is_drawn_towards_that_of_all() -> None:
    odds = [np.array([0.0, 1.0, np.nan]), np.array([2.0, 1.0, np.nan])]
    found = typical_of(odds)
    usual = 1.0  # the mean of 2 and 0
    assert found.mean[:2].tolist() == [1.0, 1.0]
    assert found.spread[:2].tolist() == pytest.approx(
        [((2 + PRIOR * usual) / (1 + PRIOR)) ** 0.5, (PRIOR * usual / (1 + PRIOR)) ** 0.5]
    )
    assert np.isnan(found.mean[2])


def test_lines_without_a_fold_are_scores_of_what_is_left(about: Capability) -> None:
    encoded = about.scorer.encode(about, about.certify, None)
    module = Says(more=1.0, told=of_certify(about), seed=9)
    lines = mean_lines(encoded.table(module), encoded)
    left = [item for number, item in enumerate(about.negatives) if number % FOLDS != 3]
    assert lines[3] == pytest.approx(scored(replace(about, negatives=tuple(left)), module).mean())


def test_the_rate_is_part_of_what_a_capability_is_and_the_models_beside_it_are_not(about: Capability) -> None:
    other = replace(about, scorers=(Membership(0.1),))
    assert other.sha256 != about.sha256
    assert replace(about, typical=None).sha256 == about.sha256
    with pytest.raises(InputError, match="told beside models that never saw them"):
        scored(replace(about, typical=None), Says())


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "a row that is not there": ({"removed": np.array([0, COUNT])}, r"'removed' names row 700, there are 700"),
    "a negative row": ({"removed": np.array([-1])}, r"'removed' names row -1, there are 700"),
    "a mask of another length": ({"unseen": np.ones(3, bool)}, r"'unseen' marks 3 examples, there are 700"),
    "a share for each": ({"unseen": np.ones(COUNT)}, r"'unseen' is float64. Give true and false"),
    "a mask of numbers": (
        {"unseen": MARKS["unseen"].astype(np.uint8)},
        r"'unseen' marks examples by 0 and 1",
    ),
    "no sample": ({"removed": np.zeros(COUNT, bool)}, r"'removed' names no example"),
    "nobody is unseen": ({"unseen": np.array([], int)}, r"'unseen' names no example"),
    "removed and unseen": ({"unseen": MARKS["removed"]}, r"row \d+ is named by 'removed' and by 'unseen'"),
    "nothing stays": ({"unseen": np.setdiff1d(np.arange(COUNT), MARKS["removed"])}, r"every example was removed or is"),
    "few are unseen": (
        {"unseen": DRAWN[REMOVED : REMOVED + 100]},
        r"50 samples that no model saw are held out .* rate of 0.05 needs 120; they allow a rate of 0.12",
    ),
    "two samples": ({"removed": DRAWN[:2]}, r"2 groups cannot fill 3 splits. Name more samples"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_is_said(tmp_path: Path, case: str) -> None:
    arrays, said = BAD[case]
    with pytest.raises(InputError, match=said):
        loaded(tmp_path, **arrays)


def test_a_sample_that_stays_under_another_row_is_refused(tmp_path: Path) -> None:
    x = np.random.default_rng(1).normal(size=(COUNT, CLASSES)).astype(np.float32)
    stays = next(row for row in range(COUNT) if row not in MARKS["removed"] and not MARKS["unseen"][row])
    x[MARKS["removed"][0]] = x[stays]
    with pytest.raises(InputError, match=r"row \d+ \((removed|stays)\) and row \d+ \((removed|stays)\) are the same"):
        loaded(tmp_path, x=x)


@pytest.mark.parametrize("line", ['forget = ["a"]', 'scorer = "choice"', "triggered = 't'"])
def test_keys_of_classes_are_not_those_of_samples(tmp_path: Path, line: str) -> None:
    with pytest.raises(InputError, match=line.split()[0]):
        loaded(tmp_path, FILE + line + "\n")
