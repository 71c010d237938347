"""Items that a model cannot take, refused in one line before anything runs on them."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from redteam.capabilities.open_answers import EncodedCalibrated
from redteam.capabilities.reading import Encoded, EncodedInputs
from redteam.engine.batches import TokenSet
from redteam.errors import InputError, one_line
from redteam.target import Target


def refuse_misfit(target: Target, data: Sequence[Encoded]) -> None:
    """Refuses items that the model cannot take.

    Raises:
        InputError: inputs of another shape, other classes, tokens without an embedding, or texts that are too long.
    """
    for encoded in data:
        if isinstance(encoded, EncodedInputs):
            _refuse_classes(target, encoded)
    tokens = [rows for encoded in data for rows in _rows(encoded)]
    if tokens:
        _refuse_unreadable(target, tokens)


def _rows(encoded: Encoded) -> list[TokenSet]:
    if isinstance(encoded, EncodedInputs):
        return []
    if isinstance(encoded, EncodedCalibrated):
        return [encoded.asked.rows, encoded.premises.rows]
    return [encoded.rows]


@torch.no_grad()
def _refuse_classes(target: Target, encoded: EncodedInputs) -> None:
    """Refuses inputs of another shape than the classifier takes, and items that name more or fewer classes."""
    shape = tuple(encoded.inputs.shape[1:])
    try:
        given = tuple(encoded.batch(slice(0, 2)).logits(target.module).shape)
    except Exception as error:  # every module fails in its own way
        raise InputError(
            f"{target.name} cannot take inputs of shape {shape} ({one_line(str(error))[:120]})",
            "Give a classifier of such inputs",
        ) from error
    wanted = (min(2, len(encoded)), encoded.classes)
    if given != wanted:
        raise InputError(
            f"{target.name} gives outputs of shape {given} where the items name {encoded.classes} classes: {wanted}",
            "Give a classifier of these classes",
        )


def _refuse_unreadable(target: Target, data: Sequence[TokenSet]) -> None:
    """Refuses text that the model has no embeddings or positions for; torch would only say that an index is wrong."""
    highest = max(int(rows.input_ids.max()) for rows in data)
    embeddings = target.module.get_input_embeddings().num_embeddings  # type: ignore[operator]
    if highest >= embeddings:
        raise InputError(
            f"{target.name}: its tokenizer gives token {highest}, the model has {embeddings} embeddings",
            "Give the tokenizer that belongs to the model",
        )
    longest, positions = max(int(rows.lengths.max()) for rows in data), positions_of(target)
    if positions is not None and longest > positions:
        raise InputError(
            f"an item has {longest} tokens, {target.name} reads {positions}", "Shorten the prompt of the capability"
        )


def positions_of(target: Target) -> int | None:
    """Returns how many tokens a language model reads at most; None if it does not say."""
    return getattr(target.module.config, "max_position_embeddings", None)
