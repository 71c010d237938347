"""What a scorer is: items and a model in, one score in [0, 1] per item out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from redteam.capabilities.scorers.failures import NotFinite as NotFinite
from redteam.capabilities.scorers.failures import UnusableScores as UnusableScores
from redteam.engine.batches import TokenSet

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from redteam.capabilities.items import Capability, Item

SCORING_BATCH = 512  # at most, see `ordered_rows`: scores must not depend on how much memory a machine has

Scores = NDArray[np.float64]


class Encoded(Protocol):
    """Items in the form in which a scorer has a model read them. They know how they are read and scored."""

    def __len__(self) -> int:
        """Returns the number of items."""

    @property
    def tokens(self) -> Sequence[TokenSet]:
        """All that a language model reads; of a classifier nothing. The harness refuses texts that it cannot take."""

    @property
    def chance(self) -> Scores:
        """What the scorer's own `chance` says of these items, float64 [items]."""

    def table(self, module: nn.Module) -> Tensor:
        """Returns what a module says of each item, float32 [items, columns]. The module is in evaluation mode.

        Whoever compares two models compares these tables, so that they show more than the scores.

        Raises:
            NotFinite: the module's outputs are NaN or infinite.
        """

    def scores(self, table: Tensor) -> Scores:
        """Returns the scores of a table, float64 [items], each in [0, 1].

        Where a score rests on other examples too, drawn as these are, a method `lines(table)` returns what the scores
        would be had a fold of those not been there, for each fold: judging counts what that varies by. Where items may
        stand out on two sides, a method `sides(table)` returns the scores of each.
        """


@runtime_checkable
class OfParts(Protocol):
    """Items whose table is made of what a classifier says of several sets of examples."""

    @property
    def parts(self) -> Sequence[Any]:
        """The sets that are read: `EncodedInputs`."""

    def table_of(self, logits: Sequence[Tensor]) -> Tensor:
        """Returns the table, of the logits of each part, float32 [examples, classes]."""


class Said:
    """What a module says as it is now. Examples that several splits of a classifier rest on are read once."""

    def __init__(self, module: nn.Module) -> None:
        """Reads nothing yet; the module is in evaluation mode."""
        self._module = module
        self._logits: dict[tuple[int, ...], Tensor] = {}

    def table(self, encoded: Encoded) -> Tensor:
        """Returns the table of a split, see `Encoded.table`.

        Raises:
            NotFinite: as there.
        """
        if not isinstance(encoded, OfParts):
            return encoded.table(self._module)
        return encoded.table_of([self._read(part) for part in encoded.parts])

    def _read(self, part: Any) -> Tensor:
        if not part.rows:
            logits: Tensor = part.table(self._module)
            return logits
        if part.rows not in self._logits:
            self._logits[part.rows] = part.table(self._module)
        return self._logits[part.rows]


class Scorer(Protocol):
    """A way to score items. Its class attributes are what `redteam list scorers` shows.

    Attributes:
        name: unique, lower case.
        version: raised with every change that could move a number.
        goal: one line.
        paper: where it was published.
        kinds: what it scores: "language", "classifier", or "language, classifier".
        needs: what it needs of an item: "choices" with wrong ones among them, or the right "answer" alone. Or
            "choices, premise" (or "answer, premise"), where it needs a prompt that asks nothing as well; "negatives",
            where it holds items against others; "references", where it takes models that never knew.
    """

    name: str
    version: int
    goal: str
    paper: str
    kinds: str
    needs: str

    def encode(
        self, capability: Capability, items: Sequence[Item], tokenizer: PreTrainedTokenizerBase | None
    ) -> Encoded:
        """Returns items in the form in which a model reads them.

        Args:
            capability: the items are of; it has the premise, and the inputs of a classifier.
            items: some of its items.
            tokenizer: of the language model; None for a classifier.

        Raises:
            InputError: the tokenizer leaves nothing of an answer, or no token before it.
        """

    def chance(self, items: Sequence[Item]) -> Sequence[float]:
        """Returns the expected score of a blind draw, of each item; 0 where nothing is drawn."""

    def constant(self, known: Sequence[str], asked: Sequence[str]) -> float:
        """Returns what always giving one answer scores; 0 where that is no way to score.

        Args:
            known: right answers of other splits, not empty; the one answer is chosen by them.
            asked: right answers of the split that is scored, not empty.
        """


def scores_of(table: Tensor, encoded: Encoded) -> Scores:
    """Returns the scores of a table of `encoded`, float64 [items].

    Raises:
        UnusableScores: there is not one number in [0, 1] for every item.
    """
    scores = np.asarray(encoded.scores(table))
    if scores.shape != (len(encoded),):
        raise UnusableScores(f"it gives scores of shape {scores.shape} to {len(encoded)} items")
    if scores.dtype != np.float64:
        raise UnusableScores(f"its scores are {scores.dtype}, not float64")
    wrong = scores[~((scores >= 0) & (scores <= 1))]
    if len(wrong):
        raise UnusableScores(f"it gives a score of {wrong[0]:g}, which is not between 0 and 1")
    return scores


def mean_lines(table: Tensor, encoded: Encoded) -> tuple[float, ...]:
    """Returns the mean scores of a table had a fold of other examples been left out, for each fold; mostly ()."""
    lines: Callable[[Tensor], Sequence[Scores]] | None = getattr(encoded, "lines", None)
    return () if lines is None else tuple(float(scores.mean()) for scores in lines(table))


def mean_sides(table: Tensor, encoded: Encoded) -> tuple[float, ...]:
    """Returns the mean scores of a table by the side on which items stand out: above, below; mostly ()."""
    sides: Callable[[Tensor], Sequence[Scores]] | None = getattr(encoded, "sides", None)
    return () if sides is None else tuple(float(scores.mean()) for scores in sides(table))


def item_scores(module: nn.Module, encoded: Encoded) -> Scores:
    """Returns what a module scores on each item, float64 [items].

    Raises:
        NotFinite: its outputs are NaN or infinite.
        UnusableScores: as `scores_of`.
    """
    return scores_of(encoded.table(module), encoded)


def share_known(module: nn.Module, encoded: Encoded) -> float:
    """Returns the mean score corrected for chance: 1 when every item is right, about 0 for blind guesses.

    A score x at a chance of c counts as (x - c) / (1 - c).

    Raises:
        NotFinite: the module's outputs are NaN or infinite.
        UnusableScores: as `scores_of`.
    """
    chance = encoded.chance
    return float(((item_scores(module, encoded) - chance) / (1 - chance)).mean())
