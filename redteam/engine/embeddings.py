"""Token embeddings of a language model, and how its loss changes with the tokens that it reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from redteam.engine.batches import Batch


def embeddings_of(module: nn.Module) -> nn.Embedding:
    """Returns the table of token embeddings of a language model.

    Raises:
        ValueError: there is none.
    """
    find: Any = getattr(module, "get_input_embeddings", None)
    table = find() if find is not None else None
    if not isinstance(table, nn.Embedding):
        raise ValueError(f"a {type(module).__name__} has no token embeddings")
    return table


def without_embeddings(module: nn.Module) -> str | None:
    """Returns that a module has no token embeddings; None if it has."""
    try:
        embeddings_of(module)
    except ValueError as error:
        return str(error)
    return None


def token_gradients(module: nn.Module, batch: Batch, places: Sequence[slice]) -> Tensor:
    """Returns how the loss of a batch would change, to first order, with the tokens at some places.

    The gradient of the loss by the one-hot vector of each token, summed over the sequences: e_v . dL/dx_i for token v
    in place i. No weight gets a gradient.

    Source: Ebrahimi et al. 2018, HotFlip (arXiv 1712.06751), equation 1; Zou et al. 2023 (arXiv 2307.15043), section
    2.2.

    Args:
        module: a language model with token embeddings.
        batch: what it reads.
        places: of each sequence, all of the same length.

    Returns:
        [length of a place, tokens that have an embedding].

    Raises:
        ValueError: the module has no token embeddings.
    """
    table = embeddings_of(module)
    read: list[Tensor] = []

    def keep(_module: nn.Module, _given: Any, output: Tensor) -> Tensor:
        read.append(output.detach().requires_grad_())
        return read[-1]

    with table.register_forward_hook(keep), torch.enable_grad():
        (gradient,) = torch.autograd.grad(batch.loss(module), read)
    of_places = torch.stack([row[place] for row, place in zip(gradient, places, strict=True)]).sum(dim=0)
    return of_places @ table.weight.detach().T
