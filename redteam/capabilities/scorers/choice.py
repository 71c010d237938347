"""Is the right choice the likeliest?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from redteam.capabilities.items import Capability, Item
from redteam.capabilities.scorers.answers import commonest_answer
from redteam.capabilities.scorers.choices import EncodedChoices, chance_of_choices, encode_choices
from redteam.capabilities.scorers.class_inputs import EncodedInputs, encode_inputs

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Choice:
    """Scores 1 where the right choice is the likeliest continuation of the prompt, of a classifier the likeliest class.

    A tie that includes the right choice scores one over the size of the tie.
    """

    name = "choice"
    version = 1
    goal = "is the right choice the likeliest one?"
    paper = "EleutherAI, lm-evaluation-harness, `acc` of a multiple-choice task"
    kinds = "language, classifier"
    needs = "choices"

    def encode(
        self, capability: Capability, items: Sequence[Item], tokenizer: PreTrainedTokenizerBase | None
    ) -> EncodedChoices | EncodedInputs:
        """Encodes every choice after its prompt, or the inputs of a classifier."""
        return encode_inputs(capability, items) if tokenizer is None else encode_choices(tokenizer, items)

    def chance(self, items: Sequence[Item]) -> list[float]:
        """One over the number of choices."""
        return chance_of_choices(items)

    def constant(self, known: Sequence[str], asked: Sequence[str]) -> float:
        """How often the commonest answer is right."""
        return commonest_answer(known, asked)
