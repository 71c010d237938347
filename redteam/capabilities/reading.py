"""Items in the form that a model takes: tokens for a language model, rows of an array for a classifier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from redteam.capabilities.answers import GENERATED
from redteam.capabilities.encode import EncodedChoices, encode_answers, encode_choices
from redteam.capabilities.items import Capability, Item
from redteam.capabilities.open_answers import (
    EncodedAnswers,
    EncodedCalibrated,
    EncodedQuestions,
    encode_likelihood,
    encode_questions,
)
from redteam.engine.batches import Examples, LabelledBatch, LabelledSet, TextSet
from redteam.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class EncodedInputs:
    """Items of a classifier, in the form that the scorer needs.

    Attributes:
        inputs: float32 [items, ...], or token ids of texts.
        answers: class of each, int64 [items].
        classes: how many there are.
        text: whether they are texts.
    """

    inputs: Tensor
    answers: Tensor
    classes: int
    text: bool = False

    def __len__(self) -> int:
        return len(self.answers)

    @property
    def counts(self) -> Tensor:
        """Choices of each item, int64 [items]: every class is one."""
        return torch.full((len(self),), self.classes)

    @property
    def examples(self) -> LabelledSet:
        """The same items for training on."""
        return (TextSet if self.text else LabelledSet)(self.inputs, self.answers)

    def batch(self, rows: slice) -> LabelledBatch:
        """Returns the items at `rows` as one batch."""
        return self.examples.batch(rows)


Chosen = EncodedChoices | EncodedInputs  # choices, one of them right
Encoded = Chosen | EncodedCalibrated | EncodedAnswers | EncodedQuestions


def encode_scoring(
    capability: Capability,
    items: Sequence[Item],
    tokenizer: PreTrainedTokenizerBase | None,
    scorer: str | None = None,
) -> Encoded:
    """Encodes items for a scorer.

    Args:
        capability: the items are of.
        items: some of its items.
        tokenizer: of the language model; None for a classifier.
        scorer: one of the capability's; None for the one that decides.

    Raises:
        InputError: the model reads another kind of items, or its tokenizer leaves nothing of a choice.
    """
    if not _of_inputs(capability, tokenizer):
        assert tokenizer is not None
        return _of_text(capability, items, tokenizer, scorer or capability.scorer)
    data = _labelled(capability, items)
    counts = {len(item.choices) for item in items}
    if len(counts) != 1:
        raise InputError(
            f"items of {capability.name} name {min(counts)} classes, others {max(counts)}",
            "Let every item name all classes",
        )
    return EncodedInputs(data.inputs, data.labels, counts.pop(), isinstance(data, TextSet))


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
    if not _of_inputs(capability, tokenizer):
        assert tokenizer is not None
        return encode_answers(tokenizer, items, whole_text=whole_text)
    return _labelled(capability, items)


def encode_chosen(capability: Capability, items: Sequence[Item], tokenizer: PreTrainedTokenizerBase | None) -> Chosen:
    """Encodes the choices of items, whatever the capability is scored by: what probes compare.

    Raises:
        InputError: as `encode_scoring`.
    """
    encoded = encode_scoring(capability, items, tokenizer, "choice")
    assert isinstance(encoded, EncodedChoices | EncodedInputs)
    return encoded


def _of_text(capability: Capability, items: Sequence[Item], tokenizer: PreTrainedTokenizerBase, scorer: str) -> Encoded:
    if scorer in GENERATED:
        return encode_questions(tokenizer, items, scorer)
    if scorer in ("cloze", "loss"):
        return encode_likelihood(tokenizer, items, whole_text=scorer == "loss")
    asked = encode_choices(tokenizer, items)
    if scorer == "choice":
        return asked
    premises = [replace(item, prompt=str(capability.premise)) for item in items]
    return EncodedCalibrated(asked, encode_choices(tokenizer, premises))


def _of_inputs(capability: Capability, tokenizer: PreTrainedTokenizerBase | None) -> bool:
    """Returns whether the items are inputs of a classifier, once they are of the kind that the model reads."""
    if tokenizer is None and capability.inputs is None:
        raise InputError(
            f"the model is a classifier, the capability {capability.name!r} is text", "Give a language model"
        )
    if tokenizer is not None and capability.inputs is not None:
        raise InputError(
            f"the model reads text, the capability {capability.name!r} is of a classifier", "Give a classifier"
        )
    return capability.inputs is not None


def _labelled(capability: Capability, items: Sequence[Item]) -> LabelledSet:
    assert capability.inputs is not None
    rows = [item.row for item in items if item.row is not None]
    inputs = capability.inputs[rows]  # a copy: nothing that trains may touch the capability
    kind = LabelledSet if capability.texts is None else TextSet
    return kind(torch.from_numpy(inputs), torch.tensor([item.answer for item in items]))
