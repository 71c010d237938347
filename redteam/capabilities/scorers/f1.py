"""How many words of the right answer does the model write?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from redteam.capabilities.items import Capability, Item
from redteam.capabilities.scorers.answers import best_constant, words_of
from redteam.capabilities.scorers.written import EncodedQuestions, encode_questions

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def f1(said: str, right: str) -> float:
    """Returns the harmonic mean of precision and recall of the words of an answer, in [0, 1].

    F1 = 2 |S and R| / (|S| + |R|), S and R the bags of words of the two. Source: as `words_of`.
    """
    first, second = words_of(said), words_of(right)
    if not first or not second:
        return float(first == second)
    return 2 * (Counter(first) & Counter(second)).total() / (len(first) + len(second))


@dataclass(frozen=True, slots=True)
class F1:
    """Scores F1 of the words that the model writes and those of the right answer."""

    name = "f1"
    version = 1
    goal = "how far does what the model writes share its words with the right answer?"
    paper = "Rajpurkar et al. 2016, SQuAD (arXiv 1606.05250)"
    kinds = "language"
    needs = "answer"

    def encode(
        self, capability: Capability, items: Sequence[Item], tokenizer: PreTrainedTokenizerBase | None
    ) -> EncodedQuestions:
        """Encodes prompts that the model is to answer."""
        assert tokenizer is not None
        return encode_questions(tokenizer, items, f1)

    def chance(self, items: Sequence[Item]) -> list[float]:
        """Zero: nothing is drawn."""
        return [0.0] * len(items)

    def constant(self, known: Sequence[str], asked: Sequence[str]) -> float:
        """What the best constant answer scores."""
        return best_constant(f1, known, asked)
