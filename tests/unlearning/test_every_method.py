"""What every row of METHODS must do, on tiny models of every kind it says it works on."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
import torch
from tiny_models import same_bits, weights_of
from tiny_tasks import hooks_of, moved, random_data, tensors_of, tiny_model_of, tiny_task, tiny_training
from torch import nn

from redteam.engine.optimizers import Tuning
from redteam.errors import InputError
from redteam.registry import METHODS
from redteam.unlearning.apply import apply_method
from redteam.unlearning.contract import UnlearningTask
from redteam.unlearning.options import create_method, options_of

STEPS = 4
# What no random choice enters: these are the same for every seed.
SEEDLESS = {"original", "ssd", "potion"}
# What trains a network of its own design: it is rebuilt from its own description.
OWN_DESIGN = {"nmn", "acl"}

# What does nothing at its defaults: `ga` stops where a model is at chance, as an untrained one is before the first
# step, and `ssd` finds no weight that matters ten times as much to nearly half of all examples.
MADE_TO_ACT = {"ga": {"cap": 1000.0}, "ssd": {"alpha": 0.5}}


def quick(name: str, **options: Any) -> Any:
    """The method with all its numbers of steps cut down."""
    made = METHODS.create(name)
    options = {**MADE_TO_ACT.get(name, {}), **options}
    steps = {option: min(STEPS, value) for option, value in options_of(made).items() if option.endswith("steps")}
    return create_method(name, {**steps, **options})


ROWS = [(name, kind) for name in METHODS.table for kind in METHODS.create(name).kinds.split(", ")]
every_method = pytest.mark.parametrize(("name", "kind"), ROWS, ids=[f"{name}-{kind}" for name, kind in ROWS])


@pytest.mark.parametrize("name", list(METHODS.table))
def test_options_are_plain_values_of_a_frozen_dataclass(name: str) -> None:
    made = METHODS.create(name)
    assert dataclasses.is_dataclass(made)
    assert type(made).__dataclass_params__.frozen
    assert not hasattr(made, "__dict__")
    for field in dataclasses.fields(made):
        assert field.kw_only
        assert type(getattr(made, field.name)) in (int, float, str, bool), field.name
        assert getattr(made, field.name) == field.default
        assert f"{field.name}:" in type(made).__doc__, f"{field.name} is not documented"


@every_method
def test_the_original_and_the_data_are_left_alone(name: str, kind: str) -> None:
    original = tiny_model_of(kind)
    task = tiny_task(kind, original)
    given = [task.forget, task.retain, task.training.data]
    before, hooks = [tensors_of(data) for data in given], hooks_of(original)
    torch.manual_seed(9)
    state = torch.random.get_rng_state()
    made = quick(name).apply(task)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert isinstance(made, nn.Module)
    assert made is not original
    assert same_bits(weights_of(original), weights_of(tiny_model_of(kind)))
    assert hooks_of(original) == hooks_of(made) == hooks
    assert not {p.data_ptr() for p in original.parameters()} & {p.data_ptr() for p in made.parameters()}
    for module in (original, made):
        assert not any(part.training for part in module.modules())
        assert all(p.grad is None and p.requires_grad for p in module.parameters())
    for data, tensors in zip(given, before, strict=True):
        assert all(torch.equal(now, then) for now, then in zip(tensors_of(data), tensors, strict=True))


@every_method
def test_what_comes_out_has_the_form_of_the_original(name: str, kind: str) -> None:
    """Same names, shapes and types, so that it loads wherever the original does, and finite."""
    task = tiny_task(kind)
    then, now = weights_of(task.original), weights_of(quick(name).apply(task))
    same = {key: (t.shape, t.dtype) for key, t in now.items()} == {key: (t.shape, t.dtype) for key, t in then.items()}
    assert same == (name not in OWN_DESIGN)
    assert all(torch.isfinite(tensor).all() for tensor in now.values())


@every_method
def test_deterministic_for_a_seed_whatever_the_global_generator_says(name: str, kind: str) -> None:
    torch.manual_seed(1)
    first = weights_of(quick(name).apply(tiny_task(kind)))
    torch.manual_seed(2)
    assert same_bits(first, weights_of(quick(name).apply(tiny_task(kind))))
    other = weights_of(quick(name).apply(tiny_task(kind, seed=1)))
    assert same_bits(first, other) == (name in SEEDLESS)


@every_method
def test_weights_that_were_frozen_are_frozen_afterwards(name: str, kind: str) -> None:
    """A user may have frozen the first layer; no method may hand back another state of it than it was given."""
    original = tiny_model_of(kind)
    next(original.parameters()).requires_grad_(False)
    wanted = {key: p.requires_grad for key, p in original.named_parameters()}
    try:
        made = quick(name).apply(tiny_task(kind, original))
    except InputError:
        return  # saying that it does not fit is as good
    assert {key: p.requires_grad for key, p in original.named_parameters()} == wanted
    if METHODS.create(name).when != "training":  # those build a new module, as the recipe says
        assert {key: p.requires_grad for key, p in made.named_parameters()} == wanted


@every_method
def test_it_says_how_far_it_has_come(name: str, kind: str) -> None:
    heard: list[tuple[str, int, int]] = []
    task = tiny_task(kind, progress=lambda *what: heard.append(what))
    quick(name).apply(task)
    for what, done, total in heard:
        assert what.strip()
        assert 0 <= done <= total
    if any(option.endswith("steps") for option in options_of(quick(name))) or quick(name).when == "training":
        assert heard
        assert heard[-1][1] == heard[-1][2]


def diverging(name: str) -> dict[str, float]:
    return {option: 1e38 for option in options_of(METHODS.create(name)) if option.endswith("learning_rate")}


@pytest.mark.parametrize(
    ("name", "kind"),
    [row for row in ROWS if diverging(row[0]) or METHODS.create(row[0]).when == "training"],
)
def test_a_learning_rate_beyond_all_bounds_ends_in_one_line_and_never_in_weights(name: str, kind: str) -> None:
    forget, retain = random_data(kind, 20, seed=1), random_data(kind, 24, seed=2)
    training = tiny_training(kind, forget, retain, tuning=Tuning(learning_rate=1e38, steps=8))
    task = tiny_task(kind, training=training)
    with pytest.raises(InputError) as caught:
        apply_method(quick(name, **diverging(name)), task)
    assert name in caught.value.found
    assert "step" in caught.value.found or "not finite" in caught.value.found
    assert "Lower" in caught.value.remedy
    assert str(caught.value).isprintable()
    assert same_bits(weights_of(task.original), weights_of(tiny_model_of(kind)))
    assert all(p.grad is None and p.requires_grad for p in task.original.parameters())
    assert hooks_of(task.original) == 0


@pytest.mark.parametrize(("name", "kind"), [row for row in ROWS if METHODS.create(row[0]).when == "training"])
def test_methods_of_training_work_without_a_label_and_not_without_a_recipe(name: str, kind: str) -> None:
    task = tiny_task(kind)
    nothing = torch.zeros(len(task.training.data), dtype=torch.bool)
    unlabelled = dataclasses.replace(task.training, labelled=nothing)
    made = quick(name).apply(dataclasses.replace(task, forget=unlabelled.forget, training=unlabelled))
    assert all(torch.isfinite(p).all() for p in made.parameters())
    with pytest.raises(InputError, match="how this model was trained is not known"):
        quick(name).apply(dataclasses.replace(task, training=None))


@pytest.mark.parametrize(("name", "kind"), [row for row in ROWS if METHODS.create(row[0]).when == "post hoc"])
def test_post_hoc_methods_need_no_recipe(name: str, kind: str) -> None:
    task = tiny_task(kind)
    made = quick(name).apply(dataclasses.replace(task, training=None))
    assert same_bits(weights_of(made), weights_of(quick(name).apply(task)))


@pytest.mark.parametrize(("name", "kind"), [row for row in ROWS if METHODS.create(row[0]).when == "post hoc"])
def test_with_nothing_labelled_a_post_hoc_method_leaves_a_copy(name: str, kind: str) -> None:
    task: UnlearningTask = tiny_task(kind)
    made = apply_method(quick(name), dataclasses.replace(task, forget=task.forget.take(slice(0, 0)))).module
    assert made is not task.original
    assert not moved(task.original, made)


@every_method
def test_one_example_of_each_is_enough(name: str, kind: str) -> None:
    """And if it is not, the method says so in one line."""
    task = tiny_task(kind)
    forget, retain = task.forget.take(slice(0, 1)), task.retain.take(slice(0, 1))
    small = dataclasses.replace(
        task, forget=forget, retain=retain, training=tiny_training(kind, task.forget.take(slice(0, 2)), task.retain)
    )
    before = copy.deepcopy(task.original)
    try:
        made = quick(name).apply(small)
    except InputError:
        made = None
    assert made is None or all(torch.isfinite(p).all() for p in made.parameters())
    assert not moved(before, task.original)
