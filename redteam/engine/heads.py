"""The output layer of a model, and the states that it reads."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from redteam.engine.batches import IGNORED, AnyBatch, Batch, Examples, ordered_batches

READING_BATCH = 256


class NoHead(ValueError):
    """A model has no output layer of the kind that is wanted; the message says what it has."""


def output_head(module: nn.Module) -> nn.Linear:
    """Returns the output layer: of a classifier the one that it calls its head, else the last that owns weights.

    Raises:
        NoHead: it is not linear.
    """
    model, named = language_model(module), getattr(module, "head", None)
    owners = [part for part in module.modules() if list(part.parameters(recurse=False))]
    head = owners[-1] if owners else None
    if model is not None:
        head = model.get_output_embeddings()
    elif isinstance(named, nn.Module) and list(named.parameters(recurse=False)):  # some make the body after the head
        head = named
    if not isinstance(head, nn.Linear):
        raise NoHead(f"the output head of a {type(module).__name__} is no linear layer")
    return head


def language_model(module: nn.Module) -> Any:
    """Returns the module if it has token embeddings on both ends; None of any other, such as a classifier."""
    model: Any = module
    head = model.get_output_embeddings() if hasattr(module, "get_output_embeddings") else None
    return None if head is None else model


@torch.no_grad()
def head_states(module: nn.Module, data: Examples) -> Tensor:
    """Returns the states that the head reads, [examples, hidden]: of text where the answer's first token is predicted.

    A head that reads every token of a text which it classifies is that of a causal model, and its last token counts.

    Raises:
        NoHead: there is no linear head, or it does not read one state an example.
    """
    kept: list[Tensor] = []
    states = []
    with output_head(module).register_forward_pre_hook(lambda _module, inputs: kept.append(inputs[0])):
        for batch in ordered_batches(data, READING_BATCH):
            kept.clear()
            batch.logits(module)
            states.append(_states(kept, batch).cpu())
    return torch.cat(states)


def _states(kept: list[Tensor], batch: AnyBatch) -> Tensor:
    if isinstance(batch, Batch):
        first = (batch.labels != IGNORED).int().argmax(dim=1)
        return kept[-1][torch.arange(len(first)), first - 1]
    if kept and kept[-1].shape[:-1] == batch.real.shape and kept[-1].dim() == 3:
        return kept[-1][torch.arange(batch.samples), batch.real.sum(dim=1) - 1]
    if not kept or kept[-1].shape != (batch.samples, kept[-1].shape[-1]):
        raise NoHead("the output head does not read one state an example")
    return kept[-1]
