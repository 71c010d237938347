"""Items in the form that a model takes: tokens for a language model, rows of an array for a classifier."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from redteam.capabilities.encode import encode_answers, encode_documents
from redteam.capabilities.items import Capability, Item
from redteam.capabilities.misfit import positions_of, refuse_unembedded
from redteam.capabilities.scorers.choice import Choice
from redteam.capabilities.scorers.choices import EncodedChoices
from redteam.capabilities.scorers.class_inputs import EncodedInputs, labelled
from redteam.capabilities.scorers.contract import Encoded, Scorer
from redteam.engine.batches import Examples
from redteam.errors import InputError
from redteam.target import Target

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Chosen = EncodedChoices | EncodedInputs  # choices, one of them right


def encode_scoring(
    capability: Capability,
    items: Sequence[Item],
    tokenizer: PreTrainedTokenizerBase | None,
    scorer: Scorer | None = None,
) -> Encoded:
    """Encodes items for a scorer.

    Args:
        capability: the items are of.
        items: some of its items.
        tokenizer: of the language model; None for a classifier.
        scorer: by default the one that decides.

    Raises:
        InputError: the model reads another kind of items, or its tokenizer leaves nothing of a choice.
    """
    _refuse_other_kind(capability, tokenizer)
    return (scorer or capability.scorer).encode(capability, items, tokenizer)


def encode_training(
    capability: Capability,
    items: Sequence[Item],
    tokenizer: PreTrainedTokenizerBase | None,
    *,
    whole_text: bool = False,
) -> Examples:
    """Encodes items for training on their right answers.

    Args:
        capability: the items are of.
        items: some of its items.
        tokenizer: of the language model; None for a classifier.
        whole_text: whether the loss covers the prompt as well; a classifier has no text.

    Raises:
        InputError: as `encode_scoring`.
    """
    _refuse_other_kind(capability, tokenizer)
    return labelled(capability, items) if tokenizer is None else encode_answers(tokenizer, items, whole_text=whole_text)


def windows_of(target: Target, capability: Capability) -> Examples | None:
    """Returns the documents of a capability as a model reads them; None where there are none.

    Raises:
        InputError: as `encode_documents`; or the model has no embedding of a token.
    """
    if target.tokenizer is None or not capability.corpus:
        return None
    windows = encode_documents(target.tokenizer, capability.corpus, positions_of(target))
    refuse_unembedded(target, [windows])
    return windows


def encode_chosen(capability: Capability, items: Sequence[Item], tokenizer: PreTrainedTokenizerBase | None) -> Chosen:
    """Encodes the choices of items, whatever the capability is scored by: what probes compare.

    Raises:
        InputError: as `encode_scoring`.
    """
    _refuse_other_kind(capability, tokenizer)
    return Choice().encode(capability, items, tokenizer)


def _refuse_other_kind(capability: Capability, tokenizer: PreTrainedTokenizerBase | None) -> None:
    """Refuses items of another kind than the model reads."""
    if tokenizer is None and capability.inputs is None:
        raise InputError(
            f"the model is a classifier, the capability {capability.name!r} is text", "Give a language model"
        )
    if tokenizer is not None and capability.inputs is not None:
        raise InputError(
            f"the model reads text, the capability {capability.name!r} is of a classifier", "Give a classifier"
        )
