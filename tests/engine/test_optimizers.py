from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from redteam.engine.optimizers import Tuning, build_optimizer, rate_at

STEPS = [10, 20, 50, 400]


def torchs_rates(schedule: str, steps: int, peak: float) -> list[float]:
    """The same schedule from torch's own schedulers."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=peak)
    schedulers = torch.optim.lr_scheduler
    if schedule == "cosine":
        scheduler = schedulers.CosineAnnealingLR(optimizer, T_max=steps)
    elif schedule == "constant":
        scheduler = schedulers.ConstantLR(optimizer, factor=1.0)
    else:
        warm_up = steps // 10
        rise = schedulers.LambdaLR(optimizer, lambda step: (step + 1) / warm_up)
        fall = schedulers.CosineAnnealingLR(optimizer, T_max=steps - warm_up)
        scheduler = schedulers.SequentialLR(optimizer, [rise, fall], milestones=[warm_up])
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("schedule", ["constant", "cosine", "one-cycle"])
def test_rates_are_those_of_torchs_schedulers(schedule, steps):
    """torch updates recursively, so its rates carry a rounding error that grows with the steps: 1e-9 of the peak."""
    tuning = Tuning(learning_rate=0.3, schedule=schedule, steps=steps)
    ours = [rate_at(step, tuning) for step in range(steps)]
    assert ours == pytest.approx(torchs_rates(schedule, steps, 0.3), abs=3e-10)


@given(
    steps=st.integers(1, 500),
    peak=st.floats(1e-7, 10),
    schedule=st.sampled_from(["constant", "cosine", "one-cycle"]),
)
def test_no_rate_is_above_the_peak_or_not_positive(steps, peak, schedule):
    tuning = Tuning(learning_rate=peak, schedule=schedule, steps=steps)
    rates = [rate_at(step, tuning) for step in range(steps)]
    assert all(0 < rate <= peak * (1 + 1e-12) for rate in rates)
    # Near the peak at some step, whatever the length; one step of a short cycle may jump over its very top.
    assert max(rates) >= 0.5 * peak


@given(steps=st.integers(1, 300))
def test_one_cycle_rises_then_falls(steps):
    rates = [rate_at(step, Tuning(learning_rate=1.0, schedule="one-cycle", steps=steps)) for step in range(steps)]
    top = rates.index(max(rates))
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)


@pytest.mark.parametrize(("name", "plain"), [("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)])
def test_updates_are_those_of_the_plain_optimizer(name, plain):
    """Fused kernels reorder operations: equal to the unfused ones to float32 rounding over ten steps."""
    options = {"betas": (0.9, 0.999), "eps": 1e-8} if name == "adamw" else {"momentum": 0.9}
    start = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    left = build_optimizer([ours], Tuning(optimizer=name, learning_rate=0.05, steps=10))
    right = plain([theirs], lr=0.05, weight_decay=0.0, fused=False, foreach=False, **options)
    for step in range(10):
        for parameter, optimizer in ((ours, left), (theirs, right)):
            optimizer.zero_grad()
            (parameter.sin() * (step + 1)).sum().backward()
            optimizer.step()
    assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(ours, start, atol=0.01)


@pytest.mark.parametrize("name", ["adamw", "sgd", "relative", "relative-adam"])
def test_there_is_no_weight_decay(name):
    """A weight without a gradient signal stays where it is, to the bit."""
    weight = nn.Parameter(torch.full((4,), 3.7))
    optimizer = build_optimizer([weight], Tuning(optimizer=name, learning_rate=1.0, steps=1))
    (weight * 0).sum().backward()
    optimizer.step()
    assert torch.equal(weight.detach(), torch.full((4,), 3.7))


def lion_by_hand(start: torch.Tensor, gradients: list[torch.Tensor], rate: float, decay: float) -> torch.Tensor:
    """Algorithm 2 of arXiv 2302.06675, entry by entry in float64."""
    weights, momentum = start.double().tolist(), [0.0] * len(start)
    for gradient in gradients:
        for i, g in enumerate(gradient.double().tolist()):
            blend = 0.9 * momentum[i] + 0.1 * g
            weights[i] -= rate * ((blend > 0) - (blend < 0) + decay * weights[i])
            momentum[i] = 0.99 * momentum[i] + 0.01 * g
    return torch.tensor(weights)


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_lion_is_the_published_algorithm(decay):
    draw = torch.Generator().manual_seed(0)
    start = torch.randn(6, generator=draw)
    gradients = [torch.randn(6, generator=draw) for _ in range(12)]
    weight = nn.Parameter(start.clone())
    optimizer = build_optimizer([weight], Tuning(optimizer="lion", learning_rate=0.02, steps=12, weight_decay=decay))
    for gradient in gradients:
        weight.grad = gradient.clone()
        optimizer.step()
    assert torch.allclose(weight.detach(), lion_by_hand(start, gradients, 0.02, decay).float(), atol=1e-6)


def test_muon_is_torchs_on_matrices_and_adamw_on_the_rest():
    draw = torch.Generator().manual_seed(1)
    starts = [torch.randn(5, 3, generator=draw), torch.randn(4, generator=draw)]
    ours, theirs = ([nn.Parameter(start.clone()) for start in starts] for _ in range(2))
    left = build_optimizer(ours, Tuning(optimizer="muon", learning_rate=9.0, steps=5, weight_decay=0.1))
    right = [
        torch.optim.Muon([theirs[0]], lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW([theirs[1]], lr=0.01, weight_decay=0.1),
    ]
    for group in left.param_groups:
        group["lr"] = 0.01  # as the loop sets it before every step
    for _ in range(5):
        gradients = [torch.randn(start.shape, generator=draw) for start in starts]
        for parameters in (ours, theirs):
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient.clone()
        left.step()
        for optimizer in right:
            optimizer.step()
    for mine, torchs, start in zip(ours, theirs, starts, strict=True):
        assert torch.allclose(mine, torchs, atol=1e-6)
        assert not torch.allclose(mine, start, atol=1e-3)


@pytest.mark.parametrize("name", ["adamw", "lion", "muon", "relative", "relative-adam"])
def test_weight_decay_is_a_share_of_the_rate(name):
    """Decoupled: with no gradient a weight shrinks by exactly rate times decay."""
    weight = nn.Parameter(torch.full((2, 2), 4.0))
    optimizer = build_optimizer([weight], Tuning(optimizer=name, learning_rate=0.5, steps=1, weight_decay=0.1))
    weight.grad = torch.zeros(2, 2)
    optimizer.step()
    assert torch.allclose(weight.detach(), torch.full((2, 2), 4.0 * (1 - 0.5 * 0.1)))
