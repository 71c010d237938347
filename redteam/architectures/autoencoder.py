"""A split autoencoder: gradient routing sends some digits to one half of its code and the others to the other."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn


class SplitAutoencoder(nn.Module):
    """An encoder to a code of two halves, one decoder of the whole code, and a certificate decoder of each half.

    A certificate decoder learns to decode every image from its half alone and sends no gradient back: what it
    cannot decode is not in that half.

    Source: Cloud et al. 2024, Gradient Routing (arXiv 2410.04332), section 4.
    """

    def __init__(self, *, features: int, hidden: tuple[int, ...], half: int) -> None:
        """Draws random weights.

        Args:
            features: pixels.
            hidden: widths of the encoder's hidden layers; decoders mirror them.
            half: width of each half of the code.
        """
        super().__init__()
        self.code = half
        back = (*reversed(hidden), features)
        self.encoder = _layers((features, *hidden, 2 * half), last_bias=False)
        self.decoder = _layers((2 * half, *back))
        self.certificates = nn.ModuleList(_layers((half, *back)) for _ in range(2))

    def halves(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Maps images [samples, features] to both halves of their code, each [samples, half]."""
        top, bottom = self.encoder(images).split(self.code, dim=1)
        return top, bottom


def routed(top: Tensor, bottom: Tensor, first: Tensor) -> Tensor:
    """Returns the whole code, where gradients reach `top` only for `first` samples and `bottom` only for the others.

    z' = m z + (1 - m) sg(z), whose value is z; m is 1 on the half that a sample may train.

    Args:
        top: [samples, half].
        bottom: [samples, half].
        first: of which samples the top half may be trained, bool [samples].
    """
    mask = first[:, None]
    return torch.cat([torch.where(mask, top, top.detach()), torch.where(mask, bottom.detach(), bottom)], dim=1)


def correlation(left: Tensor, right: Tensor) -> Tensor:
    """Mean absolute correlation over all pairs of a unit of the left and one of the right, over the batch; a scalar."""
    return (_standardised(left).T @ _standardised(right) / len(left)).abs().mean()


def split_loss(
    model: SplitAutoencoder, images: Tensor, first: Tensor, *, route: bool, sparsity: float = 3e-3, apart: float = 0.1
) -> Tensor:
    """L = MAE_first + MAE_others + MAE_certificates + sparsity * (|z_top|_1 + |z_bot|_1) + apart * correlation.

    Without routing all images train both halves, and nothing else differs.

    Args:
        model: of the images.
        images: [samples, features].
        first: which samples may train the top half, bool [samples]; some are and some are not.
        route: whether gradients are routed.
        sparsity: weight of the L1 norm of the code, summed over units, mean over samples.
        apart: weight of the correlation of the halves.
    """
    top, bottom = model.halves(images)
    code = routed(top, bottom, first) if route else torch.cat([top, bottom], dim=1)
    errors = (model.decoder(code) - images).abs().mean(dim=1)
    told: Tensor = errors[first].mean() + errors[~first].mean()
    for half, certificate in zip((top, bottom), model.certificates, strict=True):
        told = told + (certificate(half.detach()) - images).abs().mean()
    size = (top.abs().sum(dim=1) + bottom.abs().sum(dim=1)).mean()
    return told + sparsity * size + apart * correlation(top, bottom)


def fit(
    model: SplitAutoencoder,
    draw: Callable[[int], tuple[Tensor, Tensor]],
    *,
    steps: int,
    route: bool,
    learning_rate: float = 1e-3,
    weight_decay: float = 5e-5,
) -> None:
    """Trains a model in place with Adam.

    Args:
        model: of the images.
        draw: a step's number in, its images [samples, features] and `first` [samples] out.
        steps: how many.
        route: whether gradients are routed.
        learning_rate: of Adam.
        weight_decay: of Adam.
    """
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate, weight_decay=weight_decay)
    for step in range(steps):
        images, first = draw(step)
        optimizer.zero_grad(set_to_none=True)
        split_loss(model, images, first, route=route).backward()
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)


@torch.no_grad()
def certified_error(model: SplitAutoencoder, images: Tensor, half: int) -> float:
    """Returns the mean absolute error of decoding images [samples, features] from half 0 (top) or 1 (bottom) alone."""
    return float((model.certificates[half](model.halves(images)[half]) - images).abs().mean())


def _layers(widths: tuple[int, ...], last_bias: bool = True) -> nn.Sequential:
    parts: list[nn.Module] = []
    for number, (inputs, outputs) in enumerate(pairwise(widths), 1):
        last = number == len(widths) - 1
        parts.append(nn.Linear(inputs, outputs, bias=last_bias or not last))
        if not last:
            parts.append(nn.ReLU())
    return nn.Sequential(*parts)


def _standardised(codes: Tensor) -> Tensor:
    return (codes - codes.mean(dim=0)) / (codes.std(dim=0, unbiased=False) + 1e-8)
