"""What always giving one answer is worth, and the words of an answer. No torch here."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence

Alike = Callable[[str, str], float]  # (what was written, the right answer) -> how alike they are, in [0, 1]
CONSTANTS = 200  # constant answers that are tried, the commonest first


def words_of(text: str) -> list[str]:
    """Returns the words of an answer in lower case, without punctuation and articles.

    Source: the official evaluation of SQuAD 1.1 (Rajpurkar et al. 2016, arXiv 1606.05250).
    """
    return re.sub(r"\b(a|an|the)\b", " ", "".join(c for c in text.lower() if c not in string.punctuation)).split()


def commonest_answer(known: Sequence[str], asked: Sequence[str]) -> float:
    """Returns how often the commonest of the known answers is the right one."""
    ((answer, _),) = Counter(known).most_common(1)
    return sum(right == answer for right in asked) / len(asked)


def best_constant(alike: Alike, known: Sequence[str], asked: Sequence[str]) -> float:
    """Returns what always giving one answer scores: the answer that does best among those that are known.

    Args:
        alike: compares two answers.
        known: right answers of other splits, not empty.
        asked: right answers of the split that is scored, not empty.
    """
    candidates = [answer for answer, _ in Counter(known).most_common(CONSTANTS)]
    best = max(candidates, key=lambda answer: sum(alike(answer, right) for right in known[:CONSTANTS]))
    return sum(alike(best, right) for right in asked) / len(asked)
