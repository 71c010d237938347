"""Which choice does the prompt make more likely?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from redteam.capabilities.items import Capability, Item
from redteam.capabilities.scorers.answers import commonest_answer
from redteam.capabilities.scorers.choices import EncodedChoices, chance_of_choices, encode_choices
from redteam.capabilities.scorers.contract import Scores
from redteam.engine.batches import TokenSet

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class EncodedCalibrated:
    """Choices, and the same choices after a prompt that asks nothing.

    The score compares log p(choice | prompt) - log p(choice | premise), so that a choice which is likely whatever is
    asked has no advantage. Source: Holtzman et al. 2021 (arXiv 2104.08315), PMI-DC, with the content-free premise of
    Zhao et al. 2021 (arXiv 2102.09690).

    Attributes:
        asked: the choices after their prompts.
        premises: the choices of the same items after the premise.
    """

    asked: EncodedChoices
    premises: EncodedChoices

    def __len__(self) -> int:
        return len(self.asked)

    @property
    def tokens(self) -> tuple[TokenSet, ...]:
        """All that is read."""
        return (self.asked.rows, self.premises.rows)

    @property
    def chance(self) -> Scores:
        """One over the number of choices."""
        return self.asked.chance

    def table(self, module: nn.Module) -> Tensor:
        """Returns what the prompt adds to each choice's log-likelihood, float32 [items, most choices], -inf where none.

        Raises:
            NotFinite: a likelihood of a real choice is NaN or infinite.
        """
        asked, premises = self.asked.table(module), self.premises.table(module)
        return asked - premises.masked_fill(premises == -torch.inf, 0)

    def scores(self, table: Tensor) -> Scores:
        """Returns 1 where the prompt adds most to the right choice."""
        return self.asked.scores(table)


@dataclass(frozen=True, slots=True)
class Calibrated:
    """As `choice`, of what the prompt adds to each choice's log-likelihood; see `EncodedCalibrated`."""

    name = "calibrated"
    version = 1
    goal = "does the prompt raise the likelihood of the right choice most?"
    paper = "Holtzman et al. 2021, PMI-DC (arXiv 2104.08315); Zhao et al. 2021 (arXiv 2102.09690)"
    kinds = "language"
    needs = "choices, premise"

    def encode(
        self, capability: Capability, items: Sequence[Item], tokenizer: PreTrainedTokenizerBase | None
    ) -> EncodedCalibrated:
        """Encodes the choices after their prompts, and after the premise."""
        assert tokenizer is not None
        premises = [replace(item, prompt=str(capability.premise)) for item in items]
        return EncodedCalibrated(encode_choices(tokenizer, items), encode_choices(tokenizer, premises))

    def chance(self, items: Sequence[Item]) -> list[float]:
        """One over the number of choices."""
        return chance_of_choices(items)

    def constant(self, known: Sequence[str], asked: Sequence[str]) -> float:
        """How often the commonest answer is right."""
        return commonest_answer(known, asked)
