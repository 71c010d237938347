"""Inputs of a classifier, whose choices are its classes: in the form that it takes, and their logits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from redteam.capabilities.items import Capability, Item
from redteam.capabilities.scorers.choices import Rule, likeliest
from redteam.capabilities.scorers.contract import SCORING_BATCH, NotFinite, Scores
from redteam.engine.accumulation import read_in_order
from redteam.engine.batches import LabelledSet, TextSet, TokenSet
from redteam.errors import InputError


@dataclass(frozen=True, slots=True)
class EncodedInputs:
    """Items of a classifier, as it reads them.

    Attributes:
        examples: inputs, or token ids of texts, and the right class of each.
        answers: the class that is scored, int64 [items].
        classes: how many there are.
        rule: makes scores of logits.
        rows: which inputs of the capability they are; () where that is not known.
    """

    examples: LabelledSet
    answers: Tensor
    classes: int
    rule: Rule = likeliest
    rows: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.answers)

    @property
    def text(self) -> None:
        """Nothing: the choices are classes."""

    @property
    def tokens(self) -> tuple[TokenSet, ...]:
        """Nothing: a classifier reads no prompts."""
        return ()

    @property
    def counts(self) -> Tensor:
        """Choices of each item, int64 [items]: every class is one."""
        return torch.full((len(self),), self.classes)

    @property
    def chance(self) -> Scores:
        """One over the number of classes."""
        return 1 / self.counts.double().numpy()

    @property
    def parts(self) -> tuple[EncodedInputs, ...]:
        """What is read: these alone."""
        return (self,)

    def table_of(self, logits: Sequence[Tensor]) -> Tensor:
        """Returns the table, of the logits of what is read."""
        return logits[0]

    @torch.no_grad()
    def table(self, module: nn.Module) -> Tensor:
        """Returns the logits, float32 [items, classes].

        Raises:
            NotFinite: one is NaN or infinite.
        """

        def read(rows: slice) -> Tensor:
            return self.examples.batch(rows).logits(module).float().cpu()

        logits = torch.cat(read_in_order(self.examples, SCORING_BATCH, read))
        if not torch.isfinite(logits).all():
            raise NotFinite("the model's logits are not finite")
        return logits

    def scores(self, table: Tensor) -> Scores:
        """Returns the scores of logits, by the rule."""
        return self.rule(table, self.answers).numpy()


def encode_inputs(capability: Capability, items: Sequence[Item]) -> EncodedInputs:
    """Encodes items of a classifier.

    Raises:
        InputError: they name different numbers of classes.
    """
    counts = {len(item.choices) for item in items}
    if len(counts) != 1:
        raise InputError(
            f"items of {capability.name} name {min(counts)} classes, others {max(counts)}",
            "Let every item name all classes",
        )
    examples = labelled(capability, items)
    rows = tuple(item.row for item in items if item.row is not None)
    return EncodedInputs(examples, examples.labels, counts.pop(), rows=rows)


def labelled(capability: Capability, items: Sequence[Item]) -> LabelledSet:
    """Returns what a classifier reads of items, with their classes."""
    assert capability.inputs is not None
    rows = [item.row for item in items if item.row is not None]
    inputs = capability.inputs[rows]  # a copy: nothing that trains may touch the capability
    kind = LabelledSet if capability.texts is None else TextSet
    return kind(torch.from_numpy(inputs), torch.tensor([item.answer for item in items]))
