"""What a method gets of a world, and what is built of it."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest
import torch
from tiny_tasks import moved

from redteam.engine.seeding import derive_seed
from redteam.engine.training import Training
from redteam.errors import InputError
from redteam.judging.recovery import score_lost
from redteam.testbeds import facts
from redteam.testbeds.build import (
    TargetSpec,
    World,
    alignment_tax,
    build_target,
    make_target,
    train_world,
    unlearning_task,
)
from redteam.testbeds.facts import Facts

SMALL = {"ATTACK": 10, "SELECT": 5, "CERTIFY": 10, "RETAIN": 20, "UTILITY": 10}  # people; 75 facts to forget


@pytest.fixture(scope="module")
def world() -> World:
    """A small world of `facts` whose models have barely begun to learn."""
    with pytest.MonkeyPatch.context() as patch:
        for name, people in SMALL.items():
            patch.setattr(facts, name, people)
        patch.setattr(facts, "STEPS", 3)
        return train_world("facts", seed=4)


def texts(data) -> set[str]:
    tokenizer = Facts().tokenizer()
    return {tokenizer.decode(ids, skip_special_tokens=True) for ids in data.input_ids.tolist()}


def said(items) -> set[str]:
    return {f"{item.prompt} {item.completion}" for item in items}


def people(data) -> set[str]:
    return {" ".join(text.split()[:2]) for text in texts(data)}


FRACTIONS = (0.0, 0.01, 0.1, 0.25, 0.5, 1.0)


# What a method gets.


@pytest.mark.parametrize("fraction", FRACTIONS)
def test_the_share_is_of_whole_people(world: World, fraction: float) -> None:
    task = unlearning_task(world, fraction)
    labelled = people(task.forget)
    count = max(round(25 * fraction), int(fraction > 0))
    assert len(labelled) == count
    assert len(task.forget) == 3 * count
    assert texts(task.forget) == said(item for item in world.capability.forget if item.group in labelled)


def test_a_larger_share_contains_a_smaller_one(world: World) -> None:
    sets = [texts(unlearning_task(world, fraction).forget) for fraction in FRACTIONS]
    assert all(small < large for small, large in itertools.pairwise(sets))


@pytest.mark.parametrize("fraction", FRACTIONS)
def test_what_must_stay_holds_the_undiscovered_and_nothing_that_measures_utility(world: World, fraction: float) -> None:
    task = unlearning_task(world, fraction)
    capability = world.capability
    assert texts(task.retain) == said(capability.retain) | (said(capability.forget) - texts(task.forget))
    assert not texts(task.retain) & said(capability.utility)
    assert task.training is not None
    assert texts(task.training.forget) == texts(task.forget)
    assert texts(task.training.data) == said(capability.forget + capability.retain + capability.utility)


def test_no_batch_in_stored_order_holds_the_undiscovered_by_themselves(world: World) -> None:
    """They are stored side by side; SSD and Potion cut batches from the stored order."""
    task = unlearning_task(world, 0.1)
    undiscovered = said(world.capability.forget) - texts(task.forget)
    batches = [task.retain.take(slice(start, start + 16)) for start in range(0, len(task.retain), 16)]
    shares = [len(texts(batch) & undiscovered) / len(batch) for batch in batches]
    assert max(shares) < 0.95
    assert sum(share > 0 for share in shares) > 0.8 * len(shares)


def test_with_all_labelled_the_order_is_the_stored_one(world: World) -> None:
    task = unlearning_task(world, 1.0)
    kept = {item.group for item in world.capability.retain}
    rows = torch.tensor([group in kept for group in world.about])
    assert torch.equal(task.retain.input_ids, world.training.data.take(rows).input_ids)


@pytest.mark.parametrize("fraction", [0.0, 0.25])
def test_what_is_still_known_is_told_of_the_labelled_facts_alone(world: World, fraction: float) -> None:
    """A method that steers by it must not steer by held-out answers that nobody labelled."""
    asked: list[int] = []

    def counted(module: Any, encoded: Any) -> float:
        asked.append(len(encoded))
        return 0.0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("redteam.testbeds.build.share_known", counted)
        task = unlearning_task(world, fraction)
        assert task.known(world.original) == 0.0
    assert asked == ([] if fraction == 0 else [len(task.forget)])


def test_the_draw_is_the_worlds(world: World) -> None:
    again = unlearning_task(world, 0.25)
    assert texts(again.forget) == texts(unlearning_task(world, 0.25).forget)
    other = dataclasses.replace(world, seed=5)
    assert texts(unlearning_task(other, 0.25).forget) != texts(again.forget)


@pytest.mark.parametrize("fraction", [-0.1, 1.1, 2, float("nan")])
def test_a_share_is_between_0_and_1(world: World, fraction: float, tmp_path) -> None:
    with pytest.raises(InputError, match="the label fraction is"):
        unlearning_task(world, fraction)
    with pytest.raises(InputError, match="the label fraction is"):
        build_target("rmu", out=tmp_path / "model.pt", label_fraction=fraction)


@pytest.mark.parametrize(
    ("method", "option", "found"),
    [
        ("rmu", {"layer": "nothing"}, "no module matches 'nothing'"),
        ("rmu", {"moved": "nothing"}, "no parameter matches 'nothing'"),
        ("rr", {"layers": "nothing"}, "no module matches 'nothing'"),
        ("rr", {"parameters": "nothing"}, "no parameter matches 'nothing'"),
        ("routing", {"blocks": "nothing"}, "no MLP block matches 'nothing'"),
        ("routing-rmu", {"blocks": "nothing"}, "no MLP block matches 'nothing'"),
        ("routing-rmu", {"layer": "nothing"}, "no module matches 'nothing'"),
        ("sgtm", {"place": "nothing"}, "place of the method sgtm is 'nothing'"),
        ("sgtm", {"place": "inside", "units": 4096}, "4096 are to be reserved"),
    ],
)
def test_a_name_that_matches_nothing_is_refused_before_the_training(
    method: str, option: dict[str, Any], found: str, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(*_: object, **__: object) -> None:
        raise AssertionError("something was trained")

    monkeypatch.setattr(Training, "fit", train)
    with pytest.raises(InputError, match=found):
        build_target(method, testbed="digits", out=tmp_path / "model.pt", options=option)
    assert not list(tmp_path.iterdir())


def test_filtering_with_nothing_labelled_is_training_the_original_again(world: World) -> None:
    training = unlearning_task(world, 0.0).training
    assert training is not None
    again = training.fit(training.rest, seed=derive_seed(world.seed, "original"))
    assert not moved(world.original, again)
    full = unlearning_task(world).training
    assert full is not None
    assert not moved(world.reference, full.fit(full.rest, seed=derive_seed(world.seed, "reference")))
    assert moved(world.original, world.reference)


# What is built of it.


def test_post_hoc_with_nothing_labelled_is_a_copy_and_training_without_is_not(world: World) -> None:
    made, _ = make_target(TargetSpec(method="rmu", label_fraction=0.0), world)
    assert not moved(world.original, made.module)
    made, _ = make_target(TargetSpec(method="filtered", label_fraction=0.0), world)
    assert moved(world.original, made.module)


@pytest.mark.parametrize(("then", "shown"), [("retain", "retain"), ("mixture", "mixture")])
def test_the_stage_after_never_sees_what_is_held_out(
    world: World, then: Any, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    def note(self, module, data, **_):
        seen.append(data)
        return module

    monkeypatch.setattr("redteam.unlearning.stages.FollowUp.apply", note)
    make_target(TargetSpec(method="original", then=then, label_fraction=1.0), world)
    capability = world.capability
    wanted = capability.retain + (capability.attack if shown == "mixture" else ())
    assert texts(seen[0]) == said(wanted)
    assert not texts(seen[0]) & said(capability.select + capability.certify + capability.utility)


def test_options_in_force_are_the_defaults_then_the_worlds_then_the_users(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Facts, "settings", {"rmu": {"steps": 2, "alpha": 3.0}})
    spec = TargetSpec(method="rmu", then="retain", options={"steps": "1", "then.steps": 1})
    _, used = make_target(spec, world)
    assert (used["steps"], used["alpha"], used["steering"], used["then.steps"]) == (1, 3.0, 4.0, 1)


def test_options_of_a_stage_need_one(world: World) -> None:
    with pytest.raises(InputError, match=r"then\.steps is set, but nothing follows"):
        make_target(TargetSpec(method="original", options={"then.steps": 1}), world)


def test_the_decoy_hides_answers(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told of questions and answers whatever the texts are that a world is learned from."""
    given: list[Any] = []

    def note(self, task):
        given.append(task)
        return world.original

    monkeypatch.setattr("redteam.unlearning.masked.Masked.apply", note)
    make_target(TargetSpec(method="masked", label_fraction=0.5), world)
    whole = unlearning_task(world, 0.5)
    assert texts(given[0].forget) == texts(whole.forget)
    assert texts(given[0].retain) == texts(whole.retain)
    assert ((given[0].forget.labels >= 0).sum(dim=1) == 1).all()


def test_the_tax_of_the_original_is_nothing(world: World) -> None:
    tax = alignment_tax(world, world.original)
    assert tax.estimate == 0
    assert tax.low < 0 < tax.high  # one right and one wrong person are added to each model: see judging.statistics
    known = alignment_tax(world, world.training.new(9))
    assert known.low <= known.estimate <= known.high


# Scores lost.


def test_score_lost_is_paired_and_over_groups() -> None:
    before, after = np.ones(40), np.ones(40)
    after[:4] = 0
    lost = score_lost(before, after, [f"g{i // 2}" for i in range(40)])
    assert lost.estimate == pytest.approx(0.1)
    assert -0.1 < lost.low < 0.1 < lost.high < 0.4
    one = score_lost(before, after, [f"g{i}" for i in range(40)])
    assert one.high - one.low < lost.high - lost.low  # two items of a group are hardly more than one


def test_what_both_models_get_wrong_is_no_loss_and_widens_nothing() -> None:
    """Only the right and the wrong fact that are added to each model differ, one or two among 42."""
    scores = np.array([0.0, 1.0] * 20)
    lost = score_lost(scores, scores, [str(i) for i in range(40)])
    assert lost.estimate == 0
    assert max(abs(lost.low), abs(lost.high)) <= 3 / 42
    unpaired = score_lost(scores, scores[::-1], [str(i) for i in range(40)])
    assert unpaired.estimate == 0
    assert unpaired.high - unpaired.low > 3 * (lost.high - lost.low)  # the same means, not on the same items


def test_a_gain_is_a_negative_loss() -> None:
    lost = score_lost(np.zeros(30), np.ones(30), [str(i) for i in range(30)])
    assert lost.estimate == -1


def test_the_world_is_small(world: World) -> None:
    assert len(world.training.data) == 3 * sum(SMALL.values())
    assert torch.equal(world.training.labelled, torch.tensor([i >= 90 for i in range(165)]))
    assert world.plain.flops > 0
