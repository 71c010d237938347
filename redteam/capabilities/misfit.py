"""Items that a model cannot take, refused in one line before anything runs on them."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from redteam.capabilities.items import HELD_OUT, Capability
from redteam.capabilities.scorers.class_inputs import encode_inputs
from redteam.capabilities.scorers.contract import Encoded
from redteam.engine.batches import TokenSet
from redteam.errors import InputError, one_line
from redteam.target import Target


@torch.no_grad()
def refuse_other_classes(target: Target, capability: Capability) -> None:
    """Refuses inputs of another shape than a classifier takes, and items that name more or fewer classes than it has.

    A capability of a language model has neither.

    Raises:
        InputError: they do not fit.
    """
    for items in (getattr(capability, split) for split in HELD_OUT if capability.kind == "classifier"):
        encoded = encode_inputs(capability, items[:2])
        shape = tuple(encoded.examples.inputs.shape[1:])
        try:
            given = tuple(encoded.examples.batch(slice(None)).logits(target.module).shape)
        except Exception as error:  # every module fails in its own way
            raise InputError(
                f"{target.name} cannot take inputs of shape {shape} ({one_line(str(error))[:120]})",
                "Give a classifier of such inputs",
            ) from error
        wanted = (len(encoded), encoded.classes)
        if given != wanted:
            raise InputError(
                f"{target.name} gives outputs of shape {given} where the items name {wanted[1]} classes: {wanted}",
                "Give a classifier of these classes",
            )


def refuse_unreadable(target: Target, data: Sequence[Encoded]) -> None:
    """Refuses text that a language model has no embeddings or positions for; torch would only say: an index is wrong.

    Raises:
        InputError: tokens have no embedding, or texts are too long.
    """
    read = [rows for encoded in data for rows in encoded.tokens]
    if not read:
        return
    refuse_unembedded(target, read)
    longest, positions = max(int(rows.lengths.max()) for rows in read), positions_of(target)
    if positions is not None and longest > positions:
        raise InputError(
            f"an item has {longest} tokens, {target.name} reads {positions}", "Shorten the prompt of the capability"
        )


def refuse_unembedded(target: Target, data: Sequence[TokenSet]) -> None:
    """Refuses tokens that a language model has no embeddings for.

    Raises:
        InputError: there is one.
    """
    highest = max(int(rows.input_ids.max()) for rows in data)
    embeddings = target.module.get_input_embeddings().num_embeddings  # type: ignore[operator]
    if highest >= embeddings:
        raise InputError(
            f"{target.name}: its tokenizer gives token {highest}, the model has {embeddings} embeddings",
            "Give the tokenizer that belongs to the model",
        )


def positions_of(target: Target) -> int | None:
    """Returns how many tokens a language model reads at most; None if it does not say."""
    return getattr(target.module.config, "max_position_embeddings", None)
