"""Does the model write the right answer?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from redteam.capabilities.items import Capability, Item
from redteam.capabilities.scorers.answers import best_constant, words_of
from redteam.capabilities.scorers.written import EncodedQuestions, encode_questions

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def exact_match(said: str, right: str) -> float:
    """Returns 1 if two answers have the same words in the same order, else 0."""
    return float(words_of(said) == words_of(right))


@dataclass(frozen=True, slots=True)
class Exact:
    """Scores 1 where the model writes the words of the right answer, 0 elsewhere."""

    name = "exact"
    version = 1
    goal = "does the model write the right answer?"
    paper = "Rajpurkar et al. 2016, SQuAD (arXiv 1606.05250)"
    kinds = "language"
    needs = "answer"

    def encode(
        self, capability: Capability, items: Sequence[Item], tokenizer: PreTrainedTokenizerBase | None
    ) -> EncodedQuestions:
        """Encodes prompts that the model is to answer."""
        assert tokenizer is not None
        return encode_questions(tokenizer, items, exact_match)

    def chance(self, items: Sequence[Item]) -> list[float]:
        """Zero: nothing is drawn."""
        return [0.0] * len(items)

    def constant(self, known: Sequence[str], asked: Sequence[str]) -> float:
        """What the best constant answer scores."""
        return best_constant(exact_match, known, asked)
