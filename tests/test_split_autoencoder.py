"""The split autoencoder: where gradients go, the terms of its loss, and that routing splits a small code."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from benchmarks.split_autoencoder import Setting, claims_of, interval, run
from redteam.architectures.autoencoder import SplitAutoencoder, certified_error, correlation, fit, routed, split_loss


def model(seed: int = 0) -> SplitAutoencoder:
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        return SplitAutoencoder(features=6, hidden=(8,), half=3)


def images(count: int = 10) -> tuple[Tensor, Tensor]:
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(1)), torch.arange(count) % 3 == 0


def test_routing_keeps_the_value_and_lets_each_sample_train_one_half() -> None:
    top, bottom = torch.randn(2, 10, 3, generator=torch.Generator().manual_seed(0)).unbind()
    top, bottom = top.requires_grad_(), bottom.requires_grad_()
    _, first = images()
    code = routed(top, bottom, first)
    assert torch.equal(code, torch.cat([top, bottom], dim=1))
    weight = torch.arange(1.0, 61.0).reshape(10, 6)
    (code * weight).sum().backward()
    assert top.grad is not None
    assert bottom.grad is not None
    assert torch.equal(top.grad, weight[:, :3] * first[:, None])
    assert torch.equal(bottom.grad, weight[:, 3:] * ~first[:, None])


def encoder_rows(route: bool, samples: Tensor, first: Tensor, errors_of: Tensor) -> Tensor:
    """Gradient of the reconstruction of some samples on the last layer of the encoder, [6 units, 8]."""
    made = model()
    top, bottom = made.halves(samples)
    code = routed(top, bottom, first) if route else torch.cat([top, bottom], dim=1)
    (made.decoder(code) - samples)[errors_of].abs().sum().backward()
    gradient = made.encoder[-1].weight.grad
    assert gradient is not None
    return gradient


def test_a_digit_moves_the_encoder_of_its_own_half_only() -> None:
    samples, first = images()
    low = encoder_rows(True, samples, first, first)
    assert low[:3].abs().sum() > 0
    assert (low[3:] == 0).all()
    high = encoder_rows(True, samples, first, ~first)
    assert (high[:3] == 0).all()
    assert high[3:].abs().sum() > 0
    assert (encoder_rows(False, samples, first, first).abs().sum(dim=1) > 0).all()


def test_certificates_send_no_gradient_back_and_are_trained_on_all() -> None:
    made = model()
    samples, first = images()
    split_loss(made, samples, first, route=True).backward()
    encoder = made.encoder[0].weight.grad.clone()
    for certificate in made.certificates:
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in certificate.parameters())
        for parameter in certificate.parameters():
            parameter.data.mul_(3)
    made.zero_grad()
    split_loss(made, samples, first, route=True).backward()
    assert torch.equal(made.encoder[0].weight.grad, encoder)


@pytest.mark.parametrize("route", [True, False])
def test_the_loss_is_the_sum_of_its_terms(route: bool) -> None:
    made, (samples, first) = model(), images()
    with torch.no_grad():
        code = made.encoder(samples)
        error = (made.decoder(code) - samples).abs()
        expected = float(error[first].mean() + error[~first].mean())
        for half, certificate in zip((code[:, :3], code[:, 3:]), made.certificates, strict=True):
            expected += float((certificate(half) - samples).abs().mean())
        expected += 0.02 * float(code.abs().sum()) / len(samples)
        pairs = torch.corrcoef(code.T)[:3, 3:].abs()
        expected += 0.7 * float(pairs.mean())
        got = split_loss(made, samples, first, route=route, sparsity=0.02, apart=0.7)
    assert got.item() == pytest.approx(expected, rel=1e-5)


def test_correlation_of_known_codes() -> None:
    x = torch.tensor([[1.0], [2.0], [4.0]])
    assert correlation(x, -3 * x + 1).item() == pytest.approx(1, abs=1e-5)
    apart = correlation(torch.tensor([[-1.0], [0], [1]]), torch.tensor([[1.0], [-2], [1]]))
    assert apart.item() == pytest.approx(0, abs=1e-6)


def test_fit_lowers_the_certified_error_and_is_deterministic() -> None:
    samples, first = images(60)
    made = [model() for _ in range(2)]
    before = certified_error(made[0], samples, 0)
    for each in made:
        fit(each, lambda step: (samples, first), steps=60, route=True, learning_rate=1e-2)
    assert certified_error(made[0], samples, 0) < before
    assert all(torch.equal(a, b) for a, b in zip(made[0].parameters(), made[1].parameters(), strict=True))
    assert all(p.grad is None for p in made[0].parameters())


def test_routing_splits_a_world_of_two_kinds() -> None:
    """Two kinds of images, each on a plane of its own. Without routing the gap stays below every routed one."""
    planes = torch.randn(2, 3, 16, generator=torch.Generator().manual_seed(0))
    draw = torch.Generator().manual_seed(1)
    kinds = torch.arange(1000) % 2
    made = torch.einsum("si,sif->sf", torch.randn(1000, 3, generator=draw), planes[kinds])
    setting = Setting(hidden=(32,), half=3, batch_size=128, steps=300, seeds=2, margin=1.15)
    ratios = {
        route: [run(made, kinds * 5, setting, route=route, seed=s)["wrong / right"] for s in range(2)]
        for route in (True, False)
    }
    assert min(ratios[True]) > 1.15
    assert max(ratios[False]) < min(ratios[True])


def test_the_interval_and_the_claims() -> None:
    low, high = interval([1.0, 1.0, 1.0])
    assert (low, high) == (1.0, 1.0)
    low, high = interval([1.0, 2.0, 4.0])  # logs differ by ln 2: 4.303 * ln 2 / sqrt 3 either side of ln 2
    assert low == pytest.approx(2 * 2 ** (-4.302653 / 3**0.5), rel=1e-5)
    assert high == pytest.approx(2 * 2 ** (4.302653 / 3**0.5), rel=1e-5)

    def rows(with_routing: float, without: float) -> list[dict[str, float]]:
        return [{"routing": r, "wrong / right": v} for r, v in ((True, with_routing), (False, without)) for _ in "ab"]

    assert [claim.holds for claim in claims_of("x", rows(1.3, 1.0), 1.15)] == [True, True]
    assert [claim.holds for claim in claims_of("x", rows(1.1, 1.2), 1.15)] == [False, False]
