"""Are samples that a model was trained on told from samples that no model saw?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
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
    places,
    refuse_few,
)
from redteam.capabilities.texts import as_read
from redteam.engine.batches import TokenSet
from redteam.errors import InputError
from redteam.target import Target

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

RATE = 0.05  # share of samples that no model saw that may be taken for members
SCORED = ("attack", "select", "certify", "utility", "negatives")
SPREAD = 4.0  # of the logits of a trained classifier around the means of their classes, more or less
SIDES = 2  # a removed sample may stand out because a model is surer of it, or because it is less sure


@dataclass(frozen=True, slots=True)
class Compared:
    """Samples, with what models that never saw them say of them.

    Attributes:
        examples: as a classifier reads them.
        mean: log-odds of its own class in such models, of each sample, float64 [samples].
        spread: how such models differ, float64 [samples].
    """

    examples: EncodedInputs
    mean: Tensor
    spread: Tensor

    def __len__(self) -> int:
        return len(self.examples)


@dataclass(frozen=True, slots=True)
class EncodedMembership:
    """Removed samples, and samples that no model saw, which they are held against.

    Attributes:
        removed: what is scored.
        unseen: samples that no model saw: by the first set a module's scale is fitted; one set or two.
        held: which set each removed sample is held against, int64 [samples].
        rate: share of the unseen that may be taken for members.
    """

    removed: Compared
    unseen: tuple[Compared, ...]
    held: Tensor
    rate: float

    def __len__(self) -> int:
        return len(self.removed)

    @property
    def tokens(self) -> tuple[TokenSet, ...]:
        """Nothing: a classifier reads no prompts."""
        return ()

    @property
    def chance(self) -> Scores:
        """The rate: so often a sample that no model saw is taken for a member."""
        return np.full(len(self), self.rate)

    @property
    def parts(self) -> tuple[EncodedInputs, ...]:
        """What is read: the samples, and the unseen."""
        return (self.removed.examples, *(one.examples for one in self.unseen))

    def table(self, module: nn.Module) -> Tensor:
        """Returns logits, and how many of the unseen of each fold are below a sample and beside it, from either side.

        Returns:
            float32 [samples, classes + 2 * 2 * FOLDS].

        Raises:
            NotFinite: a logit is NaN or infinite.
        """
        return self.table_of([part.table(module) for part in self.parts])

    def table_of(self, logits: Sequence[Tensor]) -> Tensor:
        """Returns the table, of the logits of what is read."""
        own, *others = self._odds(logits)
        return torch.cat([logits[0], self._found(own, others).to(logits[0])], dim=1)

    def lines_at(self, module: nn.Module) -> tuple[float, float]:
        """Returns where the lines lie for the last set of the unseen: how unusual a sample is there, see `unusual`.

        Raises:
            NotFinite: a logit is NaN or infinite.
        """
        _, *unseen = self._odds([part.table(module) for part in self.parts])
        found = unusual(unseen[-1], self.unseen[-1], fitted_line(unseen[0], self.unseen[0])).numpy()
        low, high = np.quantile(found, [self.rate / SIDES, 1 - self.rate / SIDES]).tolist()
        return low, high

    def _odds(self, logits: Sequence[Tensor]) -> list[Tensor]:
        """Returns the log-odds of the own class of what is read, each float64 [samples]."""
        pairs = zip(logits, self.parts, strict=True)
        return [own_odds(standard(said, logits[1]), part.answers) for said, part in pairs]

    def _found(self, odds: Tensor, unseen: Sequence[Tensor]) -> Tensor:
        """Returns how many of the unseen are below each sample and beside it, float64 [samples, 2 * 2 * FOLDS]."""
        line = fitted_line(unseen[0], self.unseen[0])
        own = unusual(odds, self.removed, line)
        found = torch.zeros(len(self), SIDES, 2, FOLDS, dtype=torch.float64)
        for number, (said, negatives) in enumerate(zip(unseen, self.unseen, strict=True)):
            rows, against = self.held == number, unusual(said, negatives, line)
            found[rows] = torch.stack([places(own[rows], against), places(-own[rows], -against)], dim=1)
        return found.flatten(1)

    def scores(self, table: Tensor) -> Scores:
        """Returns how surely each sample stands out, float64 [samples]: the sum of both of `sides`."""
        return np.minimum(sum(self.sides(table)), 1.0)

    def sides(self, table: Tensor) -> tuple[Scores, Scores]:
        """Returns how surely each sample stands out because the model is surer of it than usual, and because less."""
        more, less = (above_line(found, self._sizes, self.rate / SIDES) for found in self._places(table))
        return more, less

    def lines(self, table: Tensor) -> list[Scores]:
        """Returns the scores had one fold of the unseen not been there to draw the lines by, for each fold."""
        each = [above_lines(found, self._sizes, self.rate / SIDES) for found in self._places(table)]
        return [np.minimum(sum(both), 1.0) for both in zip(*each, strict=True)]

    @property
    def _sizes(self) -> Tensor:
        """How many unseen of each fold a sample is held against, float64 [samples, FOLDS]."""
        return fold_sizes([len(one) for one in self.unseen], self.held)

    def _places(self, table: Tensor) -> list[Tensor]:
        """Returns how many unseen are below and beside each sample, of each side, float64 [samples, 2, FOLDS]."""
        classes = self.removed.examples.classes
        return list(table[:, classes:].double().reshape(len(table), SIDES, 2, FOLDS).unbind(1))


def standard(logits: Tensor, unseen: Tensor) -> Tensor:
    """Returns logits with the means and the spread that those of trained models have, float64 [samples, classes].

    No bias of a class and no scale of the logits, however small, counts then.

    Args:
        logits: of some samples.
        unseen: those of samples that no model saw, by which means of classes and the spread are told.
    """
    means = unseen.double().mean(dim=0)
    spread = (unseen.double() - means).square().mean().sqrt()
    return SPREAD * (logits.double() - means) / spread.clamp(min=torch.finfo(torch.float64).tiny)


def own_odds(logits: Tensor, answers: Tensor) -> Tensor:
    """Returns log p(own class) - log p(any other class), float64 [samples]."""
    logits = logits.double()
    own = logits.gather(1, answers[:, None])
    return own[:, 0] - logits.scatter(1, answers[:, None], -torch.inf).logsumexp(dim=1)


def fitted_line(odds: Tensor, unseen: Compared) -> tuple[float, float]:
    """Returns intercept and slope of a module's log-odds over those that are typical, by weighted least squares.

    A module that is less sure of everything hides nothing by that.
    """
    weight = unseen.spread.square().reciprocal()
    weight = weight / weight.sum()
    centre, height = (weight * unseen.mean).sum(), (weight * odds).sum()
    across = (weight * (unseen.mean - centre).square()).sum()
    slope = float((weight * (unseen.mean - centre) * (odds - height)).sum() / across.clamp(min=1e-12))
    return float(height) - slope * float(centre), slope


def unusual(odds: Tensor, samples: Compared, line: tuple[float, float]) -> Tensor:
    """Returns how far log-odds are above those that are typical, in the units of the spread, float64 [samples]."""
    intercept, slope = line
    return (odds - intercept - slope * samples.mean) / samples.spread


def read_odds(target: Target, capability: Capability, splits: Sequence[str] = SCORED) -> NDArray[np.float64]:
    """Returns the log-odds of the own class of every sample of some splits, float64 [rows]; NaN of other rows.

    Raises:
        NotFinite: a logit is NaN or infinite.
        InputError: the model cannot read the samples.
    """
    capability = as_read(capability, target)
    assert capability.inputs is not None
    items = [item for split in splits for item in getattr(capability, split)]
    encoded = encode_inputs(capability, items)
    target.module.eval()
    said = encoded.table(target.module)
    measured = set(_rows(capability.utility))
    unseen = said[[item.row in measured for item in items]]
    odds = np.full(len(capability.inputs), np.nan)
    odds[_rows(items)] = own_odds(standard(said, unseen), encoded.answers).numpy()
    return odds


@dataclass(frozen=True, slots=True)
class Membership:
    """Whether samples stand out of those that no model saw: a likelihood-ratio attack on membership.

    phi(x) is the log-odds of a sample's own class, of logits that are centred by class and brought to one spread, so
    that neither a scale of the logits nor a bias counts. Models that never saw the sample, the references, say what is
    typical: z(x) = (phi(x) - a - b mean(x)) / spread(x), where a and b are fitted to samples that no model saw. The
    lines are drawn so that half of `rate` of other unseen samples lie above the one, and half below the other. A sample
    of which the model is less sure than any that never saw it was forgotten too well, and stands out just so. See
    `ranks.above_line`. Of a reference the other references tell what is typical.

    Utility is scored as `choice`: by the likeliest class, on samples that no model saw.

    Source: Carlini et al. 2022, "Membership Inference Attacks From First Principles" (arXiv 2112.03570), offline;
    Kurmanji et al. 2023 (arXiv 2302.09880) and Hayes et al. 2024 (arXiv 2403.01218) for unlearned samples.

    Attributes:
        rate: share of unseen samples beyond the lines.
    """

    rate: float = RATE

    name = "membership"
    version = 1
    goal = "do samples stand out of those that no model saw, on either side?"
    paper = "Carlini et al. 2022, LiRA (arXiv 2112.03570); Hayes et al. 2024 (arXiv 2403.01218)"
    kinds = "classifier"
    needs = "choices, negatives, references"

    @property
    def utility(self) -> Choice:
        """What scores samples that measure utility."""
        return Choice()

    def encode(
        self, capability: Capability, items: Sequence[Item], tokenizer: PreTrainedTokenizerBase | None
    ) -> EncodedMembership:
        """Encodes removed samples with those that they are held against.

        The certify split is held against unseen samples of its own, which nothing that is chosen has looked at.

        Raises:
            InputError: nothing says what is typical of models that never saw the samples, or the unseen are too few.
        """
        if capability.typical is None:
            raise InputError(
                f"{capability.name}: whether samples stand out is told beside models that never saw them",
                "Give references",
            )
        certified = {item.id for item in capability.certify}
        held = torch.tensor([item.id in certified for item in items]).long()
        parts = (capability.utility, capability.negatives)[: 1 + int(held.max()) if len(held) else 1]
        for part in parts:
            self.refuse_few(len(part), capability.name)
        unseen = tuple(_compared(capability, part) for part in parts)
        return EncodedMembership(_compared(capability, items), unseen, held, self.rate)

    def refuse_few(self, unseen: int, name: str) -> None:
        """Refuses a rate that so many unseen samples cannot tell.

        Raises:
            InputError: too few of them would be above a line.
        """
        refuse_few(unseen, self.rate, SIDES, "samples that no model saw", name)

    def chance(self, items: Sequence[Item]) -> list[float]:
        """The rate, exactly."""
        return [self.rate] * len(items)

    def constant(self, known: Sequence[str], asked: Sequence[str]) -> float:
        """The rate: a constant answer puts all samples beside each other."""
        return self.rate


def _compared(capability: Capability, items: Sequence[Item]) -> Compared:
    assert capability.typical is not None
    rows = _rows(items)
    mean, spread = (torch.from_numpy(values[rows]) for values in (capability.typical.mean, capability.typical.spread))
    return Compared(encode_inputs(capability, items), mean, spread)


def _rows(items: Sequence[Item]) -> list[int]:
    return [item.row for item in items if item.row is not None]
