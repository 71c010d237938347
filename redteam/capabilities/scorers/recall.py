"""Are examples of a forgotten class told from all others, wherever the model draws the line?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from redteam.capabilities.items import Capability, Item
from redteam.capabilities.scorers.choice import Choice
from redteam.capabilities.scorers.class_inputs import EncodedInputs, encode_inputs
from redteam.capabilities.scorers.contract import Scores
from redteam.capabilities.scorers.ranks import (
    FOLDS,
    above_line,
    above_lines,
    fold_sizes,
    needed_for,
    places,
    refuse_few,
)
from redteam.engine.batches import TokenSet
from redteam.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

RATE = 0.01  # share of what stays that may be taken for a forgotten class


@dataclass(frozen=True, slots=True)
class EncodedRecall:
    """Examples of forgotten classes, and the examples of other classes that they are held against.

    Attributes:
        examples: what is scored, as a classifier reads it.
        others: held-out examples of what stays; one set or, of examples of two splits, two.
        counted: of each set which are examples of other classes, and draw the line; true and false [examples].
        held: which set each example is held against, int64 [items].
        forgotten: numbers of the forgotten classes.
        rate: share of the negatives that may be taken for a forgotten class.
    """

    examples: EncodedInputs
    others: tuple[EncodedInputs, ...]
    counted: tuple[Tensor, ...]
    held: Tensor
    forgotten: tuple[int, ...]
    rate: float

    def __len__(self) -> int:
        return len(self.examples)

    @property
    def tokens(self) -> tuple[TokenSet, ...]:
        """Nothing: a classifier reads no prompts."""
        return ()

    @property
    def chance(self) -> Scores:
        """The rate: so often an example that looks like any other is taken for a forgotten class."""
        return np.full(len(self), self.rate)

    @property
    def parts(self) -> tuple[EncodedInputs, ...]:
        """What is read: the examples, and those that they are held against."""
        return (self.examples, *self.others)

    def table(self, module: nn.Module) -> Tensor:
        """Returns logits, and how many negatives of each fold are below an item and beside it.

        Returns:
            float32 [items, classes + 2 FOLDS].

        Raises:
            NotFinite: a logit is NaN or infinite.
        """
        return self.table_of([part.table(module) for part in self.parts])

    def table_of(self, logits: Sequence[Tensor]) -> Tensor:
        """Returns the table, of the logits of what is read."""
        own, *others = logits
        found = torch.zeros(len(self), 2, FOLDS, dtype=own.dtype)
        for number, (said, counted) in enumerate(zip(others, self.counted, strict=True)):
            for answer in self.examples.answers.unique().tolist():
                rows = (self.held == number) & (self.examples.answers == answer)
                odds = self._log_odds(own[rows], answer)
                found[rows] = places(odds, self._log_odds(said[counted], answer)).to(own)
        return torch.cat([own, found.flatten(1)], dim=1)

    def scores(self, table: Tensor) -> Scores:
        """Returns how surely each example lies above the line, float64 [items]; see `ranks.above_line`."""
        return above_line(self._places(table), self._sizes, self.rate)

    def lines(self, table: Tensor) -> list[Scores]:
        """Returns the scores had one fold of the negatives not been there to draw the line by, for each fold."""
        return above_lines(self._places(table), self._sizes, self.rate)

    @property
    def _sizes(self) -> Tensor:
        """How many negatives of each fold an item is held against, float64 [items, FOLDS]."""
        return fold_sizes([int(one.sum()) for one in self.counted], self.held)

    def _places(self, table: Tensor) -> Tensor:
        """Returns how many negatives are below and beside each item, float64 [items, 2, FOLDS]."""
        return table[:, self.examples.classes :].double().reshape(len(table), 2, FOLDS)

    def _log_odds(self, logits: Tensor, answer: int) -> Tensor:
        """Returns log p(class) - log p(any class that stays), float64 [items].

        A constant on the class leaves the order of examples as it is.
        """
        logits = logits.double()
        stays = [number for number in range(logits.shape[1]) if number not in self.forgotten]
        return logits[:, answer] - logits[:, stays].logsumexp(dim=1)


@dataclass(frozen=True, slots=True)
class Recall:
    """Recall of a forgotten class where a small share of everything else is taken for it too.

    z are the logits, F the forgotten classes, c the one that an example is of. The model tells it from what stays by
    l(x) = z_c(x) - log sum over j not in F of exp z_j(x). The line is drawn so that `rate` of held-out examples of
    what stays, the negatives, lie above it; they are read by the same model, so that a bias or a constant answer
    says nothing. See `ranks.above_line`. A factor on all logits moves the order of examples little: in the limits
    it is that of z_c less the largest of the others, and of z_c less their mean.

    What must stay is scored as `choice`: by the likeliest class. The version is also raised with what the suite does
    of removed classes alone: their decoys, and what probes learn of them from.

    Attributes:
        rate: share of the negatives above the line.
    """

    rate: float = RATE

    name = "recall"
    version = 4
    goal = "are examples of the class above all but 1 % of other examples?"
    paper = (
        "recall at a fixed false-positive rate; Siddiqui et al. 2025 (arXiv 2505.22310) on what class accuracy hides"
    )
    kinds = "classifier"
    needs = "choices, negatives"

    @property
    def utility(self) -> Choice:
        """What scores items of what must stay."""
        return Choice()

    def encode(
        self, capability: Capability, items: Sequence[Item], tokenizer: PreTrainedTokenizerBase | None
    ) -> EncodedRecall:
        """Encodes examples of forgotten classes with those that they are held against.

        The certify split is held against negatives of its own, which nothing that is chosen has looked at.

        Raises:
            InputError: no class stays, or the negatives are too few for the rate.
        """
        forgotten = capability.forgotten
        certified = {item.id for item in capability.certify}
        sides = torch.tensor([item.id in certified for item in items]).long()
        used, held = sides.unique(return_inverse=True)
        parts = (capability.utility, capability.negatives)
        against = [parts[side] for side in used.tolist()]
        counted = [torch.tensor([item.answer not in forgotten for item in part]) for part in against]
        if len(items) and set(range(len(items[0].choices))) <= set(forgotten):
            raise InputError(f"all classes of {capability.name!r} were to be forgotten", "Let some of them stay")
        for one in counted:
            self.refuse_few(int(one.sum()), capability.name)
        return EncodedRecall(
            encode_inputs(capability, items),
            tuple(encode_inputs(capability, others) for others in against),
            tuple(counted),
            held,
            forgotten,
            self.rate,
        )

    @property
    def needed(self) -> int:
        """Examples of other classes that it takes to draw the line."""
        return needed_for(self.rate)

    def refuse_few(self, negatives: int, name: str) -> None:
        """Refuses a rate that so many negatives cannot tell.

        Raises:
            InputError: too few of them would be above the line.
        """
        refuse_few(negatives, self.rate, 1, "examples of other classes", name)

    def chance(self, items: Sequence[Item]) -> list[float]:
        """The rate, exactly."""
        return [self.rate] * len(items)

    def constant(self, known: Sequence[str], asked: Sequence[str]) -> float:
        """The rate: a constant answer puts all examples beside each other."""
        return self.rate
