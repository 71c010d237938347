"""Which outputs of a model's layers nothing that is asked for depends on: closed gates, dead units, gains of zero.

A unit that puts out the same whatever is asked, or that no gradient reaches, cannot be trained by any attack: what is
behind it stays where it is. Source: Athalye et al. 2018, Obfuscated Gradients (arXiv 1802.00420), on defences that hold
because gradients vanish; units that never act occur by themselves as well, see Voita et al. 2023, Neurons in Large
Language Models: Dead, N-gram, Positional (arXiv 2309.04827).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from redteam.engine.accumulation import read_in_order
from redteam.engine.batches import Examples
from redteam.engine.freezing import still
from redteam.engine.hooks import hooked
from redteam.engine.seeding import seeded

READ = 128  # examples of each set
AT_A_TIME = 16  # examples, each with all of its states for the gradient
USUAL = 0.9  # quantile of the effects of all channels that the others are measured by: a few are far larger
LEAST = 1e-3  # share of that, below which a channel is unused
CHANNELS_FIRST = (nn.modules.conv._ConvNd, nn.modules.batchnorm._NormBase, nn.GroupNorm)


@dataclass(frozen=True, kw_only=True, slots=True)
class Channels:
    """What one layer did over all examples, float64 [channels] each, in the processor's memory.

    Attributes:
        low: the smallest value.
        high: the largest value.
        mean: over all examples and positions.
        spread: the standard deviation.
        pull: the largest derivative, by size, of what is asked for, projected on random directions.
        fed: the mean of what the layer reads, [inputs].
    """

    low: Tensor
    high: Tensor
    mean: Tensor
    spread: Tensor
    pull: Tensor
    fed: Tensor

    @property
    def effect(self) -> Tensor:
        """How far each channel moves what is asked for, to first order.

        Zero where it is constant, and where no gradient reaches it. Scaling a channel up where a later layer scales it
        down leaves this as it is.
        """
        return (self.high - self.low) * self.pull


def unused_channels(layers: Mapping[str, Channels], least: float = LEAST) -> dict[str, Tensor]:
    """Returns which channels of each layer are unused, bool [channels].

    Args:
        layers: of a model, see `read_channels`.
        least: share of the effect of a usual channel of the model that one must have.
    """
    if not layers:
        return {}
    effects = torch.cat([read.effect for read in layers.values()])
    usual = effects.sort().values[int(USUAL * (len(effects) - 1))]  # torch.quantile takes 16 million numbers at most
    return {name: read.effect <= least * usual for name, read in layers.items()}


def count_unused(module: nn.Module, *data: Examples) -> dict[str, tuple[int, int]]:
    """Returns how many channels of a layer are unused, and how many it has: of every layer with an unused one.

    Nothing of a model through which no gradient can be taken: attacks that train fail on it, and say so.
    """
    try:
        found = unused_channels(read_channels(module, *data))
    except RuntimeError:
        return {}
    return {name: (int(closed.sum()), len(closed)) for name, closed in found.items() if closed.any()}


def weighted_layers(module: nn.Module) -> dict[str, nn.Module]:
    """Returns the layers that are read, by name: all that own a weight, but for embeddings and a language model's head.

    These are linear layers, convolutions and normalisations of whatever class.
    """
    find: Any = getattr(module, "get_output_embeddings", lambda: None)
    head = find()
    return {
        name: part
        for name, part in module.named_modules()
        if isinstance(getattr(part, "weight", None), Tensor)
        and not isinstance(part, nn.Embedding | nn.EmbeddingBag)
        and part is not head
    }


def read_channels(module: nn.Module, *data: Examples) -> dict[str, Channels]:
    """Reads what every layer puts out in evaluation mode, and what depends on it, over the first examples of each set.

    What a layer puts out on padding does not count. No state outlives its batch, no parameter gets a gradient, and the
    module stays as it is. Layers that no example reaches have no channels and are left out.

    Args:
        module: wherever it is.
        data: the first `READ` examples of each are read.

    Raises:
        RuntimeError: no gradient can be taken through it, or not one example fits into memory.
    """
    watches = {name: _Watch() for name in weighted_layers(module)}
    random = seeded(0, "unused")
    was = module.training
    module.eval()
    try:
        for examples in data:
            some = examples.take(slice(0, READ))
            read_in_order(some, AT_A_TIME, partial(_read, module, watches, random, some))
    finally:
        module.train(was)
    return {name: watch.channels() for name, watch in watches.items() if watch.count}


def _read(
    module: nn.Module, watches: Mapping[str, _Watch], random: torch.Generator, data: Examples, rows: slice
) -> None:
    batch, layers = data.batch(rows), weighted_layers(module)
    hooks = {name: _hook(watches[name], _axis(part), batch.real) for name, part in layers.items()}
    with torch.enable_grad(), still(module), hooked(module, hooks):
        logits = batch.predictions(module).logits
        direction = torch.randn(logits.shape, generator=random).to(logits)
        (logits * direction).sum().backward()


@dataclass(slots=True)
class _Watch:
    """What was read of one layer so far, float64 [channels] each, and of how many positions."""

    seen: dict[str, Tensor] = field(default_factory=dict)
    count: int = 0

    def see(self, values: Tensor, given: Tensor) -> None:
        """Takes in outputs, [positions, channels], and what they were made of, [positions, inputs]."""
        if not len(values):
            return
        values, given = values.detach().double(), given.detach().double()
        self._join("low", values.amin(dim=0), torch.minimum)
        self._join("high", values.amax(dim=0), torch.maximum)
        self._join("total", values.sum(dim=0), torch.add)
        self._join("squares", values.square().sum(dim=0), torch.add)
        self._join("fed", given.mean(dim=0) * len(values), torch.add)
        self.count += len(values)

    def feel(self, gradients: Tensor) -> None:
        """Takes in derivatives by outputs, [positions, channels]."""
        if len(gradients):
            self._join("pull", gradients.detach().abs().amax(dim=0).double(), torch.maximum)

    def channels(self) -> Channels:
        """Returns what was read; the layer put something out."""
        mean = self.seen["total"] / self.count
        return Channels(
            low=self.seen["low"],
            high=self.seen["high"],
            mean=mean,
            spread=(self.seen["squares"] / self.count - mean.square()).clamp_min(0).sqrt(),
            pull=self.seen.get("pull", torch.zeros_like(mean)),
            fed=self.seen["fed"] / self.count,
        )

    def _join(self, name: str, now: Tensor, join: Callable[[Tensor, Tensor], Tensor]) -> None:
        now = now.cpu()
        self.seen[name] = join(self.seen[name], now) if name in self.seen else now


def _hook(watch: _Watch, axis: int, real: Tensor) -> Callable[..., Tensor | None]:
    def note(_module: nn.Module, inputs: Any, output: Any) -> Tensor | None:
        if not isinstance(output, Tensor) or not output.is_floating_point() or not inputs:
            return None
        watch.see(_rows(output, axis, real), _rows(inputs[0], axis, real))
        if not torch.is_grad_enabled():
            return None
        if not output.requires_grad:  # nothing below it has a gradient: parameters are still, and inputs have none
            output = output.detach().requires_grad_().clone()  # a copy, so that what follows may work in place
        seen: Tensor = output
        seen.register_hook(lambda gradient: watch.feel(_rows(gradient, axis, real)))
        return seen

    return note


def _axis(layer: nn.Module) -> int:
    return 1 if isinstance(layer, CHANNELS_FIRST) else -1


def _rows(values: Tensor, axis: int, real: Tensor) -> Tensor:
    """Returns values [positions, channels], those on padding left out where positions are those of the batch."""
    rows = values.movedim(axis, -1)
    if rows.dim() > 2 and rows.shape[:-1] == real.shape:
        return rows[real.to(rows.device)]
    if rows.dim() == 2 and real.dim() == 2 and len(rows) == real.numel():
        return rows[real.flatten().to(rows.device)]
    return rows.reshape(-1, rows.shape[-1])
