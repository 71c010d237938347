from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_classifiers import tiny_points
from tiny_models import make_item, make_items, tiny_capability

from redteam.capabilities.items import overlapping_groups
from redteam.capabilities.splits import split_by_group

grouped = st.lists(st.integers(0, 40), min_size=1, max_size=80).map(
    lambda groups: tuple(make_item(n, group=f"g{group}") for n, group in enumerate(groups))
)
shares = st.lists(st.floats(0.01, 10), min_size=1, max_size=5)


@given(grouped, shares, st.integers(0, 100))
def test_a_split_keeps_every_item_and_divides_no_group(items, sizes, seed):
    groups = {item.group for item in items}
    if len(groups) < len(sizes):
        with pytest.raises(ValueError, match="cannot fill"):
            split_by_group(items, sizes, seed)
        return
    parts = split_by_group(items, sizes, seed)
    assert len(parts) == len(sizes)
    assert Counter(item.id for part in parts for item in part) == Counter(item.id for item in items)
    assert overlapping_groups(parts) == set()
    assert all(parts)
    for part in parts:  # in the order given
        assert list(part) == [item for item in items if item in part]


@given(st.integers(20, 200), shares, st.integers(0, 5))
def test_sizes_follow_the_shares(count, sizes, seed):
    """Cut points are rounded, so a part is less than one group off; a part that would be empty takes a group more."""
    parts = split_by_group(make_items(range(count)), sizes, seed)
    for part, share in zip(parts, sizes, strict=True):
        wanted = count * share / sum(sizes)
        assert abs(len(part) - wanted) <= 1 + len(sizes) * (min(sizes) / sum(sizes) * count < 1)


def test_sizes_of_the_default_shares():
    parts = split_by_group(make_items(range(300), per_group=3), (0.4, 0.2, 0.4), 0)
    assert [len(part) for part in parts] == [120, 60, 120]


def test_the_deal_depends_on_groups_and_seed_only():
    items = make_items(range(60), per_group=2)
    deal = [{i.group for i in part} for part in split_by_group(items, (1, 1, 1), 3)]
    turned = [{i.group for i in part} for part in split_by_group(items[::-1], (1, 1, 1), 3)]
    assert deal == turned
    assert deal != [{i.group for i in part} for part in split_by_group(items, (1, 1, 1), 4)]


def test_every_group_can_land_in_every_part():
    items = make_items(range(6))
    where = Counter()
    for seed in range(300):
        for number, part in enumerate(split_by_group(items, (1, 1, 1), seed)):
            where.update((item.group, number) for item in part)
    # Each of 18 cells is Binomial(300, 1/3): mean 100, standard deviation 8.2.
    assert len(where) == 18
    assert all(abs(count - 100) < 41 for count in where.values())


@given(grouped, st.integers(1, 4))
def test_overlapping_groups_are_those_in_two_parts(items, parts):
    dealt = [items[start::parts] for start in range(parts)]
    homes = {group: sum(any(i.group == group for i in part) for part in dealt) for group in {i.group for i in items}}
    assert overlapping_groups(dealt) == {group for group, count in homes.items() if count > 1}


def test_completion_is_the_right_choice():
    assert make_item(0, choices=("a", "b", "c"), answer=2).completion == "c"


def test_chance_is_the_mean_over_certify():
    two, four = make_item(0, choices=("a", "b")), make_item(1, choices=("a", "b", "c", "d"))
    capability = replace(tiny_capability(), certify=(two, two, four))
    assert capability.chance == pytest.approx((1 / 2 + 1 / 2 + 1 / 4) / 3, abs=1e-15)


def test_forget_is_the_three_splits_in_order():
    capability = tiny_capability()
    assert [item.id for item in capability.forget] == [f"item-{n}" for n in range(28)]
    assert overlapping_groups([capability.attack, capability.select, capability.certify, capability.retain]) == set()


@pytest.mark.parametrize("part", ["attack", "select", "certify", "retain", "utility"])
@pytest.mark.parametrize(
    "change", [{"id": "x"}, {"group": "x"}, {"prompt": "x"}, {"choices": ("w1", "x")}, {"answer": 3}]
)
def test_the_digest_covers_every_field_of_every_item(part, change):
    capability = tiny_capability()
    items = getattr(capability, part)
    changed = replace(capability, **{part: (replace(items[0], **change), *items[1:])})
    assert changed.sha256 != capability.sha256
    assert tiny_capability().sha256 == capability.sha256


def test_the_digest_covers_name_and_place():
    capability = tiny_capability()
    assert replace(capability, name="other").sha256 != capability.sha256
    moved = replace(capability, attack=capability.attack[:-1], select=(capability.attack[-1], *capability.select))
    assert moved.forget == capability.forget
    assert moved.sha256 != capability.sha256
    json.dumps(capability.sha256)


def skewed(share: float, count: int = 100):
    """A capability of questions with four choices, of which the first is right in a share of each split."""
    right = round(share * count)
    parts = {
        part: tuple(make_item(start + n, answer=0 if n < right else 1 + n % 3) for n in range(count))
        for start, part in ((0, "attack"), (count, "select"), (2 * count, "certify"))
    }
    return replace(tiny_capability(), **parts)


def test_who_always_says_the_commonest_answer_knows_nothing():
    assert skewed(0.8).chance == pytest.approx(0.8)
    assert skewed(1.0).chance == 1.0


def test_what_is_commonest_by_luck_is_no_chance():
    assert skewed(0.3).chance == pytest.approx(0.25)  # one standard error above a quarter
    assert skewed(0.5).chance == pytest.approx(0.5)  # six


def test_the_commonest_answer_is_that_of_the_other_splits():
    """An answer that is frequent on certify alone is not known to who has not seen it."""
    capability = skewed(0.25)
    turned = replace(capability, certify=tuple(replace(item, answer=2) for item in capability.certify))
    assert turned.chance == pytest.approx(0.25)


def test_the_classes_of_a_classifier_are_few_answers_by_design():
    """Who always names the forgotten class is right each time, and has lost all utility: the floor sees to that."""
    capability = tiny_points()
    assert len({item.completion for item in capability.forget}) == 2
    assert capability.chance == pytest.approx(1 / 4)
