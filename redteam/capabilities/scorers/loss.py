"""How likely is the whole text?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from redteam.capabilities.items import Capability, Item
from redteam.capabilities.scorers.likelihood import EncodedAnswers, encode_likelihood

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Loss:
    """Scores the likelihood of the prompt with its right answer after its first token, P^(1 / tokens)."""

    name = "loss"
    version = 1
    goal = "how likely is the whole text, prompt and right answer?"
    paper = "Maini et al. 2024, TOFU (arXiv 2401.06121), probability, here of the whole text"
    kinds = "language"
    needs = "answer"

    def encode(
        self, capability: Capability, items: Sequence[Item], tokenizer: PreTrainedTokenizerBase | None
    ) -> EncodedAnswers:
        """Encodes each prompt with its right answer."""
        assert tokenizer is not None
        return encode_likelihood(tokenizer, items, whole_text=True)

    def chance(self, items: Sequence[Item]) -> list[float]:
        """Zero: a likelihood has no chance level."""
        return [0.0] * len(items)

    def constant(self, known: Sequence[str], asked: Sequence[str]) -> float:
        """Zero: no answer has a likelihood by being given."""
        return 0.0
