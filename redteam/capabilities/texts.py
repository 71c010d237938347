"""Texts with their classes as a classifier of text reads them: tokenised when the model is opened."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from redteam.capabilities.items import SPLITS, Capability, Item
from redteam.engine.batches import PADDING
from redteam.errors import InputError
from redteam.target import Target, TextReader


def as_read(capability: Capability, target: Target) -> Capability:
    """Returns a capability as a model reads it: texts to classify as token ids, classes in the model's order.

    Any other capability is returned as it is.

    Raises:
        InputError: the model reads something else, or nothing of a text, or calls its classes by other names.
    """
    reader, texts = target.reader, capability.texts
    if texts is None and reader is None:
        return capability
    if reader is None:
        kind = "a classifier of arrays" if target.tokenizer is None else "a language model"
        raise InputError(
            f"{target.name} is {kind}, the capability {capability.name!r} is of texts and their classes",
            "Give a classifier of text",
        )
    if texts is None:
        held = "asks questions" if capability.kind == "language" else "is of arrays"
        raise InputError(
            f"{target.name} is a classifier of text, the capability {capability.name!r} {held}",
            "Name files of texts with their classes: rows = [...]",
        )
    return replace(_numbered(capability, reader, target.name), inputs=_tokens(texts.rows, reader, target.name))


def _numbered(capability: Capability, reader: TextReader, model: str) -> Capability:
    """Returns the items with the numbers that the model gives classes of their names.

    Where it has no such names (LABEL_0, say) the order of the capability's own stands.
    """
    names = capability.certify[0].choices
    if sorted(names) != sorted(reader.classes) or len(set(names)) < len(names):
        if capability.texts is not None and capability.texts.by_name:
            raise InputError(
                f"{model} calls its classes {', '.join(reader.classes)[:200]}; the rows {', '.join(names)[:200]}",
                "List `classes` in the capability file, in the model's order",
            )
        return capability
    number = {name: place for place, name in enumerate(reader.classes)}

    def numbered(item: Item) -> Item:
        return replace(item, choices=reader.classes, answer=number[item.completion])

    parts: dict[str, Any] = {split: tuple(map(numbered, getattr(capability, split))) for split in SPLITS}
    return replace(capability, **parts)


def _tokens(texts: tuple[str, ...], reader: TextReader, model: str) -> NDArray[np.int64]:
    """Returns token ids [texts, longest] with `PADDING` after each text."""
    read = reader.tokenizer(
        list(texts),
        truncation=reader.longest is not None,
        max_length=reader.longest,
        return_attention_mask=False,
        return_token_type_ids=False,
    )["input_ids"]
    empty = next((text for text, ids in zip(texts, read, strict=True) if not len(ids)), None)
    if empty is not None:
        raise InputError(f"the tokenizer of {model} leaves nothing of {empty[:60]!r}", "Leave that text out")
    tokens = np.full((len(read), max(map(len, read))), PADDING, dtype=np.int64)
    for row, ids in zip(tokens, read, strict=True):
        row[: len(ids)] = ids
    if tokens.max() >= reader.vocabulary:
        raise InputError(
            f"{model}: its tokenizer gives token {tokens.max()}, the model has {reader.vocabulary} embeddings",
            "Give the tokenizer that belongs to the model",
        )
    return tokens
