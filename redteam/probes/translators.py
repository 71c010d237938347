"""Affine translators, which put a layer's states into the basis that the model's own head reads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from redteam.capabilities.scorers.contract import SCORING_BATCH
from redteam.engine.batches import AnyBatch, Examples, shuffled_batches
from redteam.engine.seeding import seeded
from redteam.engine.steering import edited
from redteam.probes.lens import head, keeper, matching, no_lens

STEPS = 200
SEQUENCES = 64  # a step
POSITIONS = 512  # a step at most: every one costs a row of the vocabulary's size for each layer
CHECKED = 25  # steps after which the held-out texts are looked at
SHIFT_RATE = 1e-2  # of a layer's root mean square


@dataclass(frozen=True, slots=True)
class Translators:
    """One affine translator a layer.

    Attributes:
        slopes: A, float32 [layers, hidden, hidden].
        shifts: b in units of `scales`, so that one learning rate fits all models, float32 [layers, hidden].
        scales: root mean square of each layer's states, float32 [layers].
    """

    slopes: Tensor
    shifts: Tensor
    scales: Tensor

    def all(self, states: Tensor) -> Tensor:
        """Returns h + A h + b for the states of every layer, [layers, positions, hidden]."""
        return torch.stack([self.one(number, states[number]) for number in range(len(states))])

    def one(self, number: int, states: Tensor) -> Tensor:
        """Returns h + A h + b for the states of one layer, [..., hidden]."""
        held = states.float()
        return held + held @ self.slopes[number].T + self.shifts[number] * self.scales[number]

    def take(self, other: Translators, layers: Tensor) -> None:
        """Becomes another at some layers, in place. Args: layers: bool [layers]."""
        self.slopes[layers] = other.slopes.detach()[layers]
        self.shifts[layers] = other.shifts.detach()[layers]


@dataclass(frozen=True, slots=True)
class Positions:
    """Positions of texts that translators learn from, or are judged by.

    Attributes:
        states: of all layers but the last, float32 [layers, positions, hidden].
        final: log p_model of the next token, float32 [positions, vocabulary].
    """

    states: Tensor
    final: Tensor


def fit_translators(module: nn.Module, texts: Examples, layers: tuple[str, ...], seed: int) -> Translators:
    """Returns the translators of all layers but the last, each as it did best on a held-out fifth of the texts.

    Args:
        module: none of its parameters requires gradients.
        texts: at least one.
        layers: at least two.
        seed: of the texts that are held out, of the order of the others, and of the positions.

    Raises:
        UnknownLayers: a layer cannot be read by the head.
    """
    order = torch.randperm(len(texts), generator=seeded(seed, "held out"))
    fifth = max(1, len(texts) // 5)
    first = texts.batch(order[: min(fifth, SCORING_BATCH)])
    check_head(module, first, layers[-1])
    held = read_positions(module, first, layers, seeded(seed, "held"))
    learned = texts.take(order[fifth:] if len(texts) > 1 else order)
    batches, drawn = shuffled_batches(learned, SEQUENCES, seeded(seed, "order")), seeded(seed, "positions")
    shown = (read_positions(module, batch, layers, drawn) for batch in batches)
    return _fit(module, layers[-1], shown, held)


def _fit(module: nn.Module, last: str, shown: Iterator[Positions], held: Positions) -> Translators:
    now, best = identity(held.states), identity(held.states)
    optimizer, schedule = _optimizer(now)
    least = divergences(module, last, best, held)
    for step in range(1, STEPS + 1):
        optimizer.zero_grad()
        divergences(module, last, now, next(shown)).sum().backward()
        optimizer.step()
        schedule.step()
        if step % CHECKED == 0:
            with torch.no_grad():
                reached = divergences(module, last, now, held)
            best.take(now, reached < least)
            least = torch.where(reached < least, reached, least)
    return best


def identity(states: Tensor) -> Translators:
    """Returns translators that change nothing, for layers whose states are [layers, positions, hidden]."""
    layers, _, hidden = states.shape
    scales = states.square().mean(dim=(1, 2)).sqrt()
    return Translators(states.new_zeros(layers, hidden, hidden), states.new_zeros(layers, hidden), scales)


def _optimizer(learned: Translators) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """Returns what moves translators, and what slows it down to nothing in the end."""
    # Entries of A that move alike move a state by their number times the rate, so wide models need small steps.
    groups = [
        {"params": [learned.slopes.requires_grad_()], "lr": 1 / learned.slopes.shape[-1]},
        {"params": [learned.shifts.requires_grad_()], "lr": SHIFT_RATE},
    ]
    optimizer = torch.optim.Adam(groups)
    return optimizer, torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, STEPS)


@torch.no_grad()
def read_positions(
    module: nn.Module, batch: AnyBatch, layers: tuple[str, ...], generator: torch.Generator
) -> Positions:
    """Runs the module and returns what it says and its states, at no more than `POSITIONS` tokens drawn from a batch.

    Raises:
        UnknownLayers: a layer cannot be read by the head.
    """
    kept: dict[str, list[Tensor]] = {layer: [] for layer in layers}
    with edited(module, {layer: keeper(outputs) for layer, outputs in kept.items()}):
        logits = batch.logits(module)
    real = batch.real.nonzero()
    rows, columns = real[torch.randperm(len(real), generator=generator)[:POSITIONS]].T
    own = kept[layers[-1]]
    read = [matching(layer, kept[layer], layers[-1], own)[rows, columns].float() for layer in layers[:-1]]
    states = torch.stack([each.to(logits.device) for each in read])
    return Positions(states, logits[rows, columns].float().log_softmax(-1))


@torch.no_grad()
def check_head(module: nn.Module, batch: AnyBatch, last: str) -> None:
    """Makes sure that `head` says of the last layer's states what the model itself does.

    Raises:
        UnknownLayers: it does not, or the layer does not run exactly once.
    """
    own: list[Tensor] = []
    with edited(module, {last: keeper(own)}):
        logits = batch.logits(module)
    states = matching(last, own, last, own)
    real = batch.real.cpu()
    said, expected = head(module, last, states[real]), logits[real].float()
    # What is not finite is left for the scorers to tell.
    if not torch.allclose(said, expected, rtol=1e-2, atol=1e-2, equal_nan=True):
        raise no_lens("what follows the last layer is not the same at every position")


def divergences(module: nn.Module, last: str, translators: Translators, positions: Positions) -> Tensor:
    """Returns KL(p_model || p_lens) of each layer, averaged over positions, [layers]."""
    translated = translators.all(positions.states)
    said = head(module, last, translated.flatten(0, 1)).log_softmax(-1).unflatten(0, translated.shape[:2])
    each: Tensor = (positions.final.exp() * (positions.final - said)).sum(dim=-1)
    return each.mean(dim=-1)
