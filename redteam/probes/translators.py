"""Affine translators, which put a layer's states into the basis that the model's own head reads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from redteam.capabilities.scorers.contract import SCORING_BATCH
from redteam.engine.activations import run
from redteam.engine.batches import AnyBatch, Examples, ordered_batches
from redteam.engine.seeding import seeded
from redteam.engine.steering import edited
from redteam.probes.lens import head, keeper, matching, no_lens

STEPS = 200
SEQUENCES = 64  # read at a time
POSITIONS = 512  # a step at most: every one costs a row of the vocabulary's size for each layer
STATES = 2**27  # floats of all layers that are read once and kept: 512 MiB
LOGITS = 2**25  # floats that a step holds at a time, 128 MiB: gradients of more positions are summed piece by piece
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
        slope, shift = self.slopes[number].to(held.device), (self.shifts[number] * self.scales[number]).to(held.device)
        return held + held @ slope.T + shift

    def take(self, other: Translators, layers: Tensor) -> None:
        """Becomes another at some layers, in place. Args: layers: bool [layers]."""
        self.slopes[layers] = other.slopes.detach()[layers]
        self.shifts[layers] = other.shifts.detach()[layers]


@dataclass(frozen=True, slots=True)
class Positions:
    """Positions of texts that translators learn from, or are judged by.

    Attributes:
        states: of all layers but the last, float32 [layers, positions, hidden].
        last: of the last layer, whose head says what the model says, float32 [positions, hidden].
    """

    states: Tensor
    last: Tensor

    def __len__(self) -> int:
        return len(self.last)

    def take(self, rows: Tensor) -> Positions:
        """Returns some of the positions."""
        return Positions(self.states[:, rows], self.last[rows])

    def drawn(self, count: int, generator: torch.Generator) -> Positions:
        """Returns as many positions, drawn without replacement; all where there are no more."""
        if len(self) <= count:
            return self
        return self.take(torch.randperm(len(self), generator=generator)[:count].to(self.last.device))

    def pieces(self, size: int) -> Iterator[Positions]:
        """Yields all positions, at most `size` at a time."""
        yield from map(Positions, self.states.split(size, dim=1), self.last.split(size))


def fit_translators(module: nn.Module, texts: Examples, layers: tuple[str, ...], seed: int) -> Translators:
    """Returns the translators of all layers but the last, each as it did best on a held-out fifth of the texts.

    The texts are run through the module once. Each step draws some of their positions, and runs the head alone.

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
    said = check_head(module, first, layers[-1])
    held = read_positions(module, [first], layers, said.device).drawn(POSITIONS, seeded(seed, "held"))
    learned = texts.take(order[fifth:] if len(texts) > 1 else order)
    shown = read_positions(module, ordered_batches(learned, SEQUENCES), layers, said.device)
    return _fit(module, layers[-1], shown, held, size=max(1, LOGITS // (len(layers) * said.shape[-1])), seed=seed)


def _fit(module: nn.Module, last: str, shown: Positions, held: Positions, *, size: int, seed: int) -> Translators:
    now, best = identity(held.states), identity(held.states)
    optimizer, schedule = _optimizer(now)
    draw = seeded(seed, "positions")
    with torch.no_grad():
        least = _mean_divergences(module, last, best, held, size)
    for step in range(1, STEPS + 1):
        optimizer.zero_grad()
        drawn = shown.drawn(POSITIONS, draw)
        for piece in drawn.pieces(size):
            (divergences(module, last, now, piece).sum() * (len(piece) / len(drawn))).backward()
        optimizer.step()
        schedule.step()
        if step % CHECKED == 0:
            with torch.no_grad():
                reached = _mean_divergences(module, last, now, held, size)
            best.take(now, reached < least)
            least = torch.where(reached < least, reached, least)
    return best


def _mean_divergences(module: nn.Module, last: str, translators: Translators, held: Positions, size: int) -> Tensor:
    pieces = [divergences(module, last, translators, piece) * len(piece) for piece in held.pieces(size)]
    return torch.stack(pieces).sum(dim=0) / len(held)


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
    module: nn.Module, batches: Iterable[AnyBatch], layers: tuple[str, ...], device: torch.device
) -> Positions:
    """Runs the module and returns its states at every token, of no more batches than give `STATES` floats.

    Args:
        module: a causal language model.
        batches: of texts.
        layers: at least two.
        device: where the head puts out what it says.

    Raises:
        UnknownLayers: a layer cannot be read by the head.
    """
    read: list[Tensor] = []
    for batch in batches:
        kept: dict[str, list[Tensor]] = {layer: [] for layer in layers}
        with edited(module, {layer: keeper(outputs) for layer, outputs in kept.items()}):
            run(module, batch)
        own = kept[layers[-1]]
        states = [matching(layer, kept[layer], layers[-1], own) for layer in layers]
        read.append(torch.stack([each[batch.real.to(each.device)].float().to(device) for each in states]))
        if sum(states.numel() for states in read) >= STATES:
            break
    whole = torch.cat(read, dim=1)
    return Positions(whole[:-1], whole[-1])


@torch.no_grad()
def check_head(module: nn.Module, batch: AnyBatch, last: str) -> Tensor:
    """Returns what `head` says of the last layer's states, float32 [tokens, vocabulary]: what the model itself does.

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
    return said


def divergences(module: nn.Module, last: str, translators: Translators, positions: Positions) -> Tensor:
    """Returns KL(p_model || p_lens) of each layer, averaged over positions, [layers]."""
    with torch.no_grad():
        final = head(module, last, positions.last).log_softmax(-1)
    translated = translators.all(positions.states)
    said = head(module, last, translated.flatten(0, 1)).log_softmax(-1).unflatten(0, translated.shape[:2])
    each: Tensor = (final.exp() * (final - said)).sum(dim=-1)
    return each.mean(dim=-1)
