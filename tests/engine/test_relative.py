"""Training in units of rows and columns: what rescales a model and leaves its function alone does not disturb it."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rescaled import rescaled_chain, rescaled_llama
from tiny_models import random_tokens, tiny_llama
from torch import Tensor, nn

from redteam.engine.batches import Examples, LabelledSet, shuffled_batches
from redteam.engine.cost import Ledger
from redteam.engine.loop import fine_tune
from redteam.engine.optimizers import OptimizerName, Tuning, build_optimizer, clip_gradients
from redteam.engine.relative import units_of
from redteam.engine.seeding import seeded

# Shape, groups of a convolution, and how many rows and columns can be scaled by themselves.
SHAPES = [
    ((7,), None),
    ((9, 14), None),
    ((3, 6, 8), None),  # three experts
    ((8, 4, 3, 3), 1),
    ((8, 2, 3, 3), 4),
    ((6, 1, 5), 6),
]


def drawn(shape: tuple[int, ...], seed: int, zeros: float = 0.0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=draw) * (torch.rand(shape, generator=draw) >= zeros)


def factors(shape: tuple[int, ...], groups: int | None, seed: int) -> Tensor:
    """Powers of ten between 10^-6 and 10^6, one for each row and each column, as far as together they stay within."""
    draw = torch.Generator().manual_seed(seed)

    def powers(*size: int) -> Tensor:
        return 10 ** (6 * torch.rand(size, generator=draw) - 3)

    if len(shape) == 1:
        return powers(*shape)
    if groups is None:
        return powers(*shape[:-1], 1) * powers(*shape[:-2], 1, shape[-1])
    ones = [1] * (len(shape) - 2)
    columns = powers(groups, shape[1], *ones).repeat_interleave(shape[0] // groups, dim=0)
    return powers(shape[0], 1, *ones) * columns


def in_units(weight: Tensor, groups: int | None) -> Tensor:
    rows, columns = units_of(weight, groups)
    return torch.nan_to_num(weight / (rows * columns))


@settings(deadline=None, max_examples=40)
@given(case=st.sampled_from(SHAPES), zeros=st.sampled_from([0.0, 0.1, 0.4]), seed=st.integers(0, 1000))
def test_a_weight_in_its_units_is_the_same_however_rows_and_columns_are_scaled(case, zeros, seed) -> None:
    shape, groups = case
    weight = drawn(shape, seed, zeros)
    if len(shape) > 1:
        weight[1], weight[:, 0] = 0, weight[:, 0] * (seed % 2)  # a dead row, and at every other seed a dead column
    plain = in_units(weight, groups)
    assert torch.allclose(in_units(weight * factors(shape, groups, seed), groups), plain, rtol=1e-3, atol=1e-4)
    assert plain.isfinite().all()


@pytest.mark.parametrize(("shape", "groups"), SHAPES)
def test_rows_have_norm_one_and_columns_all_the_same(shape: tuple[int, ...], groups: int | None) -> None:
    """To one in a hundred in matrices as small as these, where balancing takes the most passes."""
    plain = in_units(drawn(shape, 0), groups)
    if len(shape) == 1:
        assert plain.abs().tolist() == [1.0] * shape[0]
        return
    blocks = plain.reshape(-1, *shape[-2:], 1) if groups is None else plain.reshape(groups, -1, shape[1], *shape[2:])
    squares = blocks.flatten(3).square().sum(3)
    assert torch.allclose(squares.sum(2), torch.ones(()), atol=1e-2)
    assert torch.allclose(squares.sum(1), torch.tensor(squares.shape[1] / squares.shape[2]), atol=1e-2)


def by_hand(weight: Tensor, gradients: list[Tensor], name: str, rate: float, decay: float) -> Tensor:
    """Both algorithms in float64, on a weight in its units: one second moment a weight, or one an entry."""
    first, second = torch.zeros_like(weight), torch.zeros_like(weight)
    for done, gradient in enumerate(gradients, 1):
        squares = gradient.square()
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * (squares.mean() if name == "relative" else squares)
        step = first / (1 - 0.9**done) / ((second / (1 - 0.999**done)).sqrt() + 1e-8)
        weight = weight * (1 - rate * decay) - rate * step
    return weight


@pytest.mark.parametrize("name", ["relative", "relative-adam"])
def test_steps_are_those_of_the_algorithm_in_these_units(name: OptimizerName) -> None:
    """The gradient of w / s is g * s."""
    weight = nn.Parameter(drawn((5, 8), 0) * factors((5, 8), None, 0))
    rows, columns = units_of(weight.detach())
    units = (rows * columns).double()
    gradients = [drawn((5, 8), 10 + step).double() for step in range(9)]
    wanted = by_hand(weight.detach() / units, gradients, name, 0.01, 0.1)
    optimizer = build_optimizer([weight], Tuning(optimizer=name, learning_rate=0.01, steps=9, weight_decay=0.1))
    for gradient in gradients:
        weight.grad = (gradient / units).float()
        optimizer.step()
    assert torch.allclose(weight.detach() / units, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["relative", "relative-adam"])
def test_dead_rows_and_columns_stay_and_other_zeros_move(name: OptimizerName) -> None:
    """Units that are nothing have no scale: whoever hides a trap behind them, a column of 1e6, does not spring it."""
    weight = nn.Parameter(drawn((5, 8), 0))
    with torch.no_grad():
        weight[1], weight[:, 2], weight[3, 3] = 0, 0, 0
    optimizer = build_optimizer([weight], Tuning(optimizer=name, learning_rate=0.1, steps=1))
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    moved = weight.detach()
    assert not moved[1].any()
    assert not moved[:, 2].any()
    assert moved[3, 3] != 0


def test_gradients_are_clipped_in_these_units() -> None:
    for scale in (1.0, 2.0**20):
        weight = nn.Parameter(drawn((5, 8), 0) * scale)
        optimizer = build_optimizer([weight], Tuning(optimizer="relative", learning_rate=0.1, steps=1))
        gradient = drawn((5, 8), 1) / scale
        weight.grad = gradient.clone()
        clip_gradients(optimizer, [weight], 1e3)
        assert torch.equal(weight.grad, gradient)
        clip_gradients(optimizer, [weight], 0.5)
        rows, columns = units_of(weight.detach())
        assert torch.linalg.vector_norm(weight.grad * rows * columns) == pytest.approx(0.5, rel=1e-4)


def losses(module: nn.Module, data: Examples, optimizer: OptimizerName, rate: float) -> list[float]:
    copied, ledger = copy.deepcopy(module), Ledger(parameters=1)
    tuning = Tuning(optimizer=optimizer, learning_rate=rate, steps=12, clip=1.0, weight_decay=0.1)
    for _ in fine_tune(copied, shuffled_batches(data, 8, seeded(0, "order")), tuning, ledger):
        pass
    return ledger.losses


def chain(*layers: nn.Module) -> nn.Sequential:
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        return nn.Sequential(*(layer.apply(_drawn_anew) for layer in layers)).eval()


def _drawn_anew(part: nn.Module) -> None:
    if isinstance(part, nn.BatchNorm2d):
        nn.init.normal_(part.weight, 1.0, 0.3)
        nn.init.normal_(part.bias, 0.0, 0.3)


def perceptron() -> nn.Sequential:
    return chain(nn.Flatten(), nn.Linear(48, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 4))


def convolutions() -> nn.Sequential:
    """Plain, grouped and depthwise ones, with normalisation, and a linear layer that reads whole maps."""
    return chain(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 12, 3, padding=1, groups=4), nn.BatchNorm2d(12),
        nn.ReLU(), nn.Conv2d(12, 12, 3, padding=1, groups=12), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(48, 4),
    )  # fmt: skip


def pictures() -> LabelledSet:
    draw = torch.Generator().manual_seed(2)
    return LabelledSet(torch.randn(40, 3, 4, 4, generator=draw), torch.randint(0, 4, (40,), generator=draw))


MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Examples], Callable[..., nn.Module]]] = {
    "llama": (tiny_llama, lambda: random_tokens(40), rescaled_llama),
    "llama, grouped queries, tied": (
        lambda: tiny_llama(num_key_value_heads=1, tie_word_embeddings=True, attention_bias=True, mlp_bias=True),
        lambda: random_tokens(40),
        rescaled_llama,
    ),
    "perceptron": (perceptron, pictures, rescaled_chain),
    "convolutions": (convolutions, pictures, rescaled_chain),
}


@pytest.mark.parametrize("span", [1.5, 3.0, 6.0])
@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_a_rescaled_copy_says_the_same_to_the_bit(name: str, span: float) -> None:
    build, data, rescaled = MODELS[name]
    plain, batch = build(), data().batch(slice(None))
    copied = rescaled(plain, span)
    assert torch.equal(batch.predictions(copied).logits, batch.predictions(plain).logits)
    weights = zip(copied.parameters(), plain.parameters(), strict=True)
    assert max(float((there / here).abs().nan_to_num().max()) for there, here in weights) > 10**span / 4


@pytest.mark.parametrize("name", MODELS)
def test_training_is_the_same_on_a_rescaled_copy_and_adamws_is_not(name: str) -> None:
    build, data, rescaled = MODELS[name]
    plain = build()
    copied = rescaled(plain, 3.0)
    for optimizer, rate in (("relative", 1e-2), ("relative-adam", 1e-2)):
        curve = losses(plain, data(), optimizer, rate)
        assert losses(copied, data(), optimizer, rate) == pytest.approx(curve, rel=1e-3)
        assert curve != pytest.approx(curve[:1] * len(curve), rel=0.01)
    curve = losses(plain, data(), "adamw", 1e-2)
    assert losses(copied, data(), "adamw", 1e-2) != pytest.approx(curve, rel=0.05)
