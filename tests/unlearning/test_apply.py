"""How a method is applied: options, costs, the stage after it, and what never gets out."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from tiny_models import random_tokens, same_bits, tiny_llama, weights_of
from tiny_tasks import moved, random_labelled, tensors_of, tiny_classifier, tiny_task
from torch import nn

from redteam.engine.loop import Diverged
from redteam.errors import InputError
from redteam.unlearning.apply import apply_method, kind_of
from redteam.unlearning.options import create_method, options_of, with_options
from redteam.unlearning.original import Original
from redteam.unlearning.rmu import RMU
from redteam.unlearning.stages import FollowUp


@dataclass(frozen=True, kw_only=True)
class Record:
    """One option of each type."""

    count: int = 3
    rate: float = 0.5
    pattern: str = "*"
    fast: bool = False


# Options.


@pytest.mark.parametrize(
    ("name", "given", "value"),
    [
        ("count", "7", 7),
        ("count", 7, 7),
        ("rate", "1e-3", 1e-3),
        ("rate", 2, 2.0),
        ("pattern", "*.mlp", "*.mlp"),
        ("fast", "yes", True),
        ("fast", "FALSE", False),
        ("fast", True, True),
    ],
)
def test_text_is_read_as_the_type_of_the_option(name: str, given: Any, value: Any) -> None:
    got = getattr(with_options(Record(), {name: given}, "it"), name)
    assert (got, type(got)) == (value, type(value))


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("count", "1.5"),
        ("count", 1.5),
        ("count", True),
        ("count", ""),
        ("rate", "nan"),
        ("rate", math.inf),
        ("rate", "fast"),
        ("fast", "maybe"),
        ("fast", 2),
    ],
)
def test_a_value_of_another_type_is_refused(name: str, given: Any) -> None:
    with pytest.raises(InputError) as caught:
        with_options(Record(), {name: given}, "the record")
    assert f"{name} of the record is {given!r}" in caught.value.found


@pytest.mark.parametrize(
    ("method", "option", "value"),
    [
        ("rmu", "batch_size", 0),
        ("rmu", "batch_size", -3),
        ("rmu", "steps", -5),
        ("rmu", "learning_rate", -1e-3),
        ("tar", "every", 0),
        ("tar", "inner_steps", 0),
        ("tar", "switch", 1.5),
        ("npo", "beta", 0),
        ("undo", "alpha", 3),
        ("sgtm", "retain_share", 1.1),
        ("acl", "task_size", 0),
        ("routing", "extra", -16),
    ],
)
def test_a_number_that_means_nothing_is_refused(method: str, option: str, value: float) -> None:
    with pytest.raises(InputError, match=option):
        create_method(method, {option: value})


def test_a_default_below_zero_may_be_any_number() -> None:
    assert options_of(create_method("routing", {"original_multiplier": "-2"}))["original_multiplier"] == -2


def test_an_unknown_option_is_answered_with_what_was_meant() -> None:
    with pytest.raises(InputError, match=r"the method rmu has no option 'step'. Did you mean 'steps'\?"):
        create_method("rmu", {"step": 3})
    with pytest.raises(InputError, match="Choose from: none"):
        create_method("original", {"anything": 3})


def test_options_in_force_are_all_of_them() -> None:
    assert options_of(create_method("rmu", {"steps": "7"})) == options_of(RMU()) | {"steps": 7}
    assert options_of(Original()) == {}


# Costs.


def test_a_method_that_trains_costs_something_and_a_copy_no_flops() -> None:
    made = apply_method(RMU(steps=2), tiny_task())
    assert made.costs.keys() == {"method"}
    assert made.costs["method"].flops > 0
    assert made.costs["method"].peak_bytes >= sum(p.numel() * 4 for p in made.module.parameters())
    assert apply_method(Original(), tiny_task()).costs["method"].flops == 0


def test_twice_the_steps_cost_more_and_the_bill_is_the_same_each_time() -> None:
    costs = [apply_method(RMU(steps=n), tiny_task()).costs["method"].flops for n in (2, 2, 4)]
    assert costs[0] == costs[1] < costs[2]


def test_the_stage_after_is_billed_apart() -> None:
    made = apply_method(Original(), tiny_task(), then=FollowUp(steps=2))
    assert made.costs["method"].flops == 0 < made.costs["then"].flops


# What is refused.


def test_a_model_of_another_kind_is_refused() -> None:
    @dataclass(frozen=True, kw_only=True)
    class OnlyText:
        name = "only-text"
        kinds = "language"
        when = "post hoc"

    with pytest.raises(InputError, match="only-text works on: language; this model is a classifier one"):
        apply_method(OnlyText(), tiny_task("classifier"))


def test_a_frozen_model_is_refused() -> None:
    model = tiny_llama().requires_grad_(False)
    with pytest.raises(InputError, match="no weight of the model may move"):
        apply_method(create_method("graddiff", {}), tiny_task("language", model))


def test_kinds_are_told_by_the_data() -> None:
    assert kind_of(random_tokens(2)) == "language"
    assert kind_of(random_labelled(2)) == "classifier"


class Broken(Original):
    """A method that goes wrong as it is told."""

    def __init__(self, how: str) -> None:
        object.__setattr__(self, "how", how)

    def apply(self, task):
        module = super().apply(task)
        if self.how == "diverged":
            raise Diverged("the training loss is nan at step 17")
        if self.how == "weights":
            next(module.parameters()).data[0, 0] = math.nan
        if self.how == "buffers":
            module.register_buffer("mean", torch.tensor([math.inf]))
        return module


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("diverged", "original diverged: the training loss is nan at step 17"),
        ("weights", "original left weights that are not finite"),
        ("buffers", r"original left weights that are not finite \(mean\)"),
    ],
)
def test_nothing_broken_gets_out(how: str, said: str) -> None:
    broken = type("Broken", (Broken,), {"how": how})(how)
    with pytest.raises(InputError, match=said):
        apply_method(broken, tiny_task("classifier"))


class Dropping(nn.Module):
    """A classifier with dropout, which draws from torch's global generator."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.Sequential(tiny_classifier()[0], nn.Dropout(0.5), nn.ReLU(), nn.Linear(12, 4))

    def forward(self, inputs):
        return self.parts(inputs)


def test_dropout_is_of_the_tasks_seed_and_the_global_generator_stays() -> None:
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        original = Dropping().eval()
    task, made = tiny_task("classifier", original), []
    data = task.retain.take(torch.arange(24).repeat(20))  # what is held out is among what is shown
    for seed in (1, 2):
        torch.manual_seed(seed)
        state = torch.random.get_rng_state()
        made.append(apply_method(Original(), task, then=FollowUp(steps=20, learning_rate=1e-2), then_data=data).module)
        assert torch.equal(torch.random.get_rng_state(), state)
    assert moved(original, made[0])
    assert not moved(*made)


# The stage after it.


@pytest.mark.parametrize("kind", ["language", "classifier"])
def test_what_is_kept_is_never_worse_on_what_was_held_out(kind: str) -> None:
    """With a learning rate that only destroys, the untouched model is the best there was."""
    task = tiny_task(kind)
    made = FollowUp(steps=3, learning_rate=30.0).apply(task.original, task.retain, seed=0)
    assert not moved(task.original, made)


@pytest.mark.parametrize("kind", ["language", "classifier"])
def test_it_lowers_the_loss_and_leaves_the_model_and_the_data_alone(kind: str) -> None:
    task = tiny_task(kind)
    data = task.retain.take(torch.arange(24).repeat(20))  # what is held out is among what is shown
    before, weights = tensors_of(data), weights_of(task.original)
    made = FollowUp(steps=40, learning_rate=1e-2).apply(task.original, data, seed=0)
    batch = data.batch(slice(None))
    assert float(batch.loss(made).detach()) < 0.9 * float(batch.loss(task.original).detach())
    assert same_bits(weights_of(task.original), weights)
    assert all(torch.equal(a, b) for a, b in zip(tensors_of(data), before, strict=True))
    assert not made.training
    assert all(p.grad is None for p in made.parameters())


def test_it_is_deterministic_and_another_seed_is_another_outcome() -> None:
    task = tiny_task()
    data = task.retain.take(torch.arange(24).repeat(4))
    made = [FollowUp(steps=10, learning_rate=3e-3).apply(task.original, data, seed=seed) for seed in (0, 0, 1)]
    assert not moved(made[0], made[1])
    assert moved(made[0], made[2])


def test_it_never_reads_the_forget_data() -> None:
    class Unseen:
        def __len__(self) -> int:
            return 3

        def __getattr__(self, name: str) -> Any:
            raise AssertionError(f"the forget set was asked for {name}")

    task = dataclasses.replace(tiny_task(), forget=Unseen())
    assert apply_method(Original(), task, then=FollowUp(steps=2)).costs["then"].flops > 0


def test_it_needs_two_examples() -> None:
    with pytest.raises(InputError, match="too few examples"):
        FollowUp().apply(tiny_llama(), random_tokens(1), seed=0)


def test_what_diverges_is_refused_by_name() -> None:
    with pytest.raises(InputError, match=r"the stage after it diverged: the training loss is .* at step"):
        apply_method(Original(), tiny_task(), then=FollowUp(steps=30, learning_rate=1e38))
