"""Training and evaluation mode: attacks train a model as it is asked, and what it does otherwise is measured."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from redteam.engine.batches import AnyBatch, Examples

ITEMS = 32  # that are read in either mode
DRAWS = 3  # of dropout: its loss differs from draw to draw
MOST = 1e6  # nats: a loss that is not finite counts as such a gap


@dataclass(frozen=True, kw_only=True, slots=True)
class ModeGap:
    """How a model that is trained differs from the model that is scored.

    Attributes:
        loss: largest difference between its mean loss as it is scored and as it is trained, in nats: in training mode,
            or in evaluation mode with gradients; 0 of a model that reads neither its mode nor whether there are any.
        gradients: share of the parameters with a gradient in training mode that have none in evaluation mode.
    """

    loss: float
    gradients: float


def in_evaluation_mode(module: nn.Module, batches: Iterator[AnyBatch]) -> Iterator[AnyBatch]:
    """Yields batches, each with the whole module in evaluation mode.

    An attack trains what is scored. Dropout of 0.95 in the config, or whatever else reads `self.training`, leaves
    outputs as they are and makes a model untrainable: a loss on retain items of 5.60 in training mode, of 0.008 in
    evaluation mode. Batch normalisation keeps to its running statistics likewise: those of forget items alone, of one
    class mostly, are not those of what is scored.

    It is done anew for each batch: whoever looks at a module between two steps may have left it in another mode.
    """
    with _differentiable(module):
        for batch in batches:
            module.eval()
            yield batch


@contextmanager
def _differentiable(module: nn.Module) -> Iterator[None]:
    """While open, recurrent layers can be trained in evaluation mode: cuDNN's cannot."""
    was = torch.backends.cudnn.enabled
    if any(isinstance(part, nn.RNNBase) for part in module.modules()):
        torch.backends.cudnn.enabled = False
    try:
        yield
    finally:
        torch.backends.cudnn.enabled = was


def mode_gap(module: nn.Module, data: Examples) -> ModeGap:
    """Returns how a model differs between being trained and being scored, on at most `ITEMS` examples.

    Batch normalisation is in evaluation mode throughout: that its statistics are those of the batch in training mode
    is no secret. A model that cannot be run in training mode (one that asks for labels there, say) has no gap: no
    attack runs it so.

    Args:
        module: in evaluation mode, and so afterwards. Training mode may change its buffers: the caller restores them.
        data: what it is asked.
    """
    batch = data.take(slice(0, ITEMS)).batch(slice(None))
    module.eval()
    with torch.no_grad():
        scored = float(batch.loss(module))
    try:
        asked, reached = _trained(module, batch)
    except RuntimeError:  # no gradient can be taken, or there is no room for one: attacks that train fail, and say so
        module.zero_grad(set_to_none=True)
        return ModeGap(loss=0.0, gradients=0.0)
    gaps = [abs(asked - scored)]
    try:
        trained = [_in_training_mode(module, batch, draw) for draw in range(DRAWS)]
        gaps.append(abs(sum(loss for loss, _ in trained) / DRAWS - scored))
        moved = frozenset[str]().union(*(names for _, names in trained))
    except Exception:  # noqa: BLE001 - what a module does in training mode is anybody's code, and no attack uses it
        moved = frozenset()
    finally:
        module.eval()
        module.zero_grad(set_to_none=True)
    loss = max(gap if math.isfinite(gap) else MOST for gap in gaps)
    return ModeGap(loss=min(loss, MOST), gradients=len(moved - reached) / max(1, len(moved)))


def _in_training_mode(module: nn.Module, batch: AnyBatch, seed: int) -> tuple[float, frozenset[str]]:
    module.train()
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.eval()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return _trained(module, batch)


def _trained(module: nn.Module, batch: AnyBatch) -> tuple[float, frozenset[str]]:
    """Returns the loss of a step, and the names of the parameters that got a gradient."""
    module.zero_grad(set_to_none=True)
    loss: Tensor = batch.loss(module)
    loss.backward()
    reached = frozenset(
        name for name, one in module.named_parameters() if one.grad is not None and bool(one.grad.any())
    )
    module.zero_grad(set_to_none=True)
    return float(loss.detach()), reached
