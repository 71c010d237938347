"""The meter against closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from redteam.engine.cost import Diverged, Ledger, Meter
from redteam.record import Cost

sizes = st.integers(1, 9)


@given(rows=sizes, inner=sizes, columns=sizes)
def test_a_matrix_product_is_two_flops_a_multiplication(rows, inner, columns):
    with Meter() as meter:
        torch.ones(rows, inner) @ torch.ones(inner, columns)
    assert meter.cost.flops == 2 * rows * inner * columns


@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_layer(bias):
    layer = nn.Linear(5, 7, bias=bias)
    with Meter() as meter:
        layer(torch.ones(3, 5))
    assert meter.cost.flops == 2 * 3 * 5 * 7


def test_a_convolution():
    layer = nn.Conv2d(2, 3, 3, padding=1)
    with Meter() as meter:
        layer(torch.ones(4, 2, 6, 5))
    assert meter.cost.flops == 2 * (4 * 6 * 5) * 3 * (2 * 3 * 3)


def test_a_training_step_is_the_forward_pass_three_times_less_the_gradient_of_the_inputs():
    """Each layer: one product forward, one for the gradient of its weights, one for that of its inputs."""
    module, samples = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)), 10
    inputs, labels = torch.randn(samples, 6), torch.randint(0, 4, (samples,))
    with Meter() as meter:
        functional.cross_entropy(module(inputs), labels).backward()
        torch.optim.SGD(module.parameters(), lr=0.1).step()
    first, second = 2 * samples * 6 * 8, 2 * samples * 8 * 4
    assert meter.cost.flops == 2 * first + 3 * second


def test_peak_is_the_most_that_was_alive_at_once():
    with Meter() as meter:
        first = torch.zeros(1000)  # 4,000 bytes
        second = torch.zeros(500)
        del second
        third = torch.zeros(250)
        view = third[10:20]
    assert meter.cost.peak_bytes == 6000
    assert (first.numel(), view.numel()) == (1000, 10)


def test_what_is_freed_and_made_again_does_not_add_up():
    with Meter() as meter:
        for _ in range(50):
            torch.zeros(1000)
    assert 4000 <= meter.cost.peak_bytes <= 8000


def test_tensors_from_before_do_not_count_and_views_count_once():
    old = torch.zeros(10_000)
    with Meter() as meter:
        new = torch.zeros(8)
        views = [new[i:] for i in range(8)]
    assert meter.cost.peak_bytes == 32
    assert len(views) == 8
    assert old.numel() == 10_000


def test_nothing_is_counted_once_it_is_closed():
    with Meter() as meter:
        kept = torch.ones(3, 3) @ torch.ones(3, 3)
    before = meter.cost
    kept @ kept
    torch.zeros(10_000)
    assert meter.cost == before
    del kept  # a tensor that dies afterwards changes nothing
    assert meter.cost == before


def test_it_is_closed_when_the_work_fails():
    meter = Meter()

    def work() -> None:
        with meter:
            torch.ones(2, 2) @ torch.ones(2, 2)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()
    torch.ones(9, 9) @ torch.ones(9, 9)
    assert meter.cost.flops == 16


def test_the_results_are_those_without_a_meter():
    def work() -> torch.Tensor:
        layer = nn.Linear(4, 4)
        nn.init.eye_(layer.weight)
        nn.init.zeros_(layer.bias)
        layer(torch.arange(8.0).reshape(2, 4)).square().mean().backward()
        return layer.weight.grad

    plain = work()
    with Meter():
        metered = work()
    assert torch.equal(plain, metered)


def test_meters_may_be_nested():
    with Meter() as outer:
        torch.ones(2, 2) @ torch.ones(2, 2)
        with Meter() as inner:
            torch.ones(3, 3) @ torch.ones(3, 3)
    assert inner.cost.flops == 54
    assert outer.cost.flops == 70


def test_seconds_are_those_it_was_open():
    import time

    with Meter() as meter:
        time.sleep(0.02)
    assert 0.02 <= meter.cost.seconds < 2
    assert meter.cost.seconds == meter.cost.seconds


def test_costs_one_after_the_other():
    a, b = Cost(flops=1, seconds=2, peak_bytes=3), Cost(flops=10, seconds=20, peak_bytes=1)
    assert a + b == Cost(flops=11, seconds=22, peak_bytes=3)


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_is_no_step(loss):
    ledger = Ledger(parameters=10)
    ledger.charge(samples=1, tokens=2, loss=1.0)
    spent = ledger.spent
    with pytest.raises(Diverged, match="at step 1"):
        ledger.charge(samples=1, tokens=2, loss=loss)
    with pytest.raises(Diverged, match="at step 1"):
        ledger.charge_search(samples=1, tokens=2, differentiated=2, loss=loss)
    assert (ledger.spent, ledger.losses) == (spent, [1.0])
