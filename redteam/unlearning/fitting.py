"""Whether a model and data of the user's own fit each other: asked before any work is done."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from redteam.engine.batches import IGNORED, Examples, TokenSet
from redteam.engine.training import Training
from redteam.errors import InputError, one_line
from redteam.unlearning.contract import Method

PRECISE = (torch.float32, torch.float64)


def refuse_unfit(name: str, module: nn.Module, data: Examples) -> None:
    """Refuses a model that cannot be trained as it is, and data that it cannot read. Reads one example.

    Args:
        name: of the set: "forget" or "retain".
        module: in evaluation mode.
        data: not empty.

    Raises:
        InputError: weights of low precision, an example that the module cannot read, outputs that are no logits of
            samples or tokens, or labels and tokens that the module does not have.
    """
    low = next((p.dtype for p in module.parameters() if p.is_floating_point() and p.dtype not in PRECISE), None)
    if low is not None:
        raise InputError(
            f"the model's weights are {str(low).removeprefix('torch.')}, in which small updates are lost",
            "Call model.float()",
        )
    if isinstance(data, TokenSet):
        _refuse_unknown_tokens(name, module, data.input_ids)
    classes = _logits(name, module, data).shape[-1]
    labels = data.labels[data.labels != IGNORED]
    if len(labels) == 0:
        raise InputError(f"the {name} set has no label", "Label at least one example")
    if not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise InputError(
            f"labels of the {name} set go from {int(labels.min())} to {int(labels.max())}, and the model tells "
            f"{classes} {'tokens' if isinstance(data, TokenSet) else 'classes'} apart",
            "Give the data that the model was made for",
        )


def refuse_unmatched(method: Method, training: Training, seed: int) -> None:
    """Refuses a method whose options name what the models of a recipe lack. Nothing is trained.

    Raises:
        InputError: a name that matches nothing.
    """
    look_up: Any = getattr(method, "look_up", None)
    if look_up is not None:
        look_up(training.new(seed).eval(), training.data.batch(slice(0, 2)))


def _refuse_unknown_tokens(name: str, module: nn.Module, ids: Tensor) -> None:
    embeddings: Any = getattr(module, "get_input_embeddings", lambda: None)
    known = getattr(embeddings(), "num_embeddings", None)
    if known is not None and not 0 <= int(ids.min()) <= int(ids.max()) < known:
        raise InputError(
            f"tokens of the {name} set go from {int(ids.min())} to {int(ids.max())}, and the model has {known}",
            "Give the model's own tokenizer",
        )


@torch.no_grad()
def _logits(name: str, module: nn.Module, data: Examples) -> Tensor:
    """Returns the logits of one example, [labels, classes]."""
    form = "texts" if isinstance(data, TokenSet) else "pairs of inputs and labels"
    try:
        said = data.batch(slice(0, 1)).predictions(module)
    except Exception as error:  # the module is anybody's code
        raise InputError(
            f"the model cannot read the {name} set as {form} ({type(error).__name__}: {one_line(str(error))})",
            "Give texts with a tokenizer to a language model, inputs as the module takes them to a classifier",
        ) from error
    if said.logits.dim() != 2:
        raise InputError(
            f"one example of the {name} set gives outputs of shape {list(said.logits.shape)}",
            "Give a classifier that returns [samples, classes]",
        )
    return said.logits
