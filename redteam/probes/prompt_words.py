"""What a prompt is about, in numbers: its words, where they stand, and how they begin, end and are long."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

WORD = re.compile(r"\w+")
MOST_FEATURES = 4096  # the commonest; a key that depends on a word shows in questions that share it


@dataclass(frozen=True, slots=True)
class PromptWords:
    """The features by which prompts are told apart.

    Attributes:
        columns: column of each feature.
    """

    columns: dict[Hashable, int]

    @staticmethod
    def of(prompts: Sequence[str]) -> PromptWords:
        """Takes what at least two of the prompts have in common and not all of them."""
        counts = Counter(feature for prompt in prompts for feature in _features(prompt))
        shared = [feature for feature, count in counts.most_common() if 1 < count < len(prompts)]
        return PromptWords({feature: column for column, feature in enumerate(shared[:MOST_FEATURES])})

    def table(self, prompts: Sequence[str]) -> NDArray[np.float64]:
        """Returns 1 where a prompt has a feature, else 0, [prompts, features]."""
        found = np.zeros((len(prompts), len(self.columns)))
        for row, prompt in enumerate(prompts):
            found[row, [self.columns[one] for one in _features(prompt) if one in self.columns]] = 1.0
        return found


def _features(prompt: str) -> set[Hashable]:
    words = WORD.findall(prompt.casefold())
    found: set[Hashable] = set(words)
    for place, word in enumerate(words):
        found |= {("from the start", place, word), ("from the end", len(words) - place, word)}
        found |= {("begins", place, word[0]), ("ends", place, word[-1]), ("long", place, len(word))}
    return found
