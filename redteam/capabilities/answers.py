"""Ways to score an answer, and the comparison of two answers as text. No torch here."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

OPEN: frozenset[str] = frozenset({"cloze", "loss", "exact", "f1"})  # they need a right answer, and no wrong ones
GENERATED: frozenset[str] = frozenset({"exact", "f1"})  # they let the model write
CONSTANTS = 200  # constant answers that are tried, the commonest first


def normalised(text: str) -> list[str]:
    """Returns the words of an answer in lower case, without punctuation and articles.

    Source: the official evaluation of SQuAD 1.1 (Rajpurkar et al. 2016, arXiv 1606.05250).
    """
    return re.sub(r"\b(a|an|the)\b", " ", "".join(c for c in text.lower() if c not in string.punctuation)).split()


def exact_match(said: str, right: str) -> float:
    """Returns 1 if two answers have the same words in the same order, else 0."""
    return float(normalised(said) == normalised(right))


def f1(said: str, right: str) -> float:
    """Returns the harmonic mean of precision and recall of the words of an answer, in [0, 1].

    F1 = 2 |S and R| / (|S| + |R|), S and R the bags of words of the two. Source: as `normalised`.
    """
    first, second = normalised(said), normalised(right)
    if not first or not second:
        return float(first == second)
    return 2 * (Counter(first) & Counter(second)).total() / (len(first) + len(second))


def constant_score(scorer: str, known: Sequence[str], asked: Sequence[str]) -> float:
    """Returns what always giving one answer scores: the answer that does best among those that are known.

    Args:
        scorer: "choice" and "calibrated" count answers that are the same text. A likelihood has no constant answer: 0.
        known: right answers of other splits, not empty.
        asked: right answers of the split that is scored, not empty.
    """
    if scorer in ("cloze", "loss"):
        return 0.0
    alike = {"exact": exact_match, "f1": f1}.get(scorer, _same)
    candidates = [answer for answer, _ in Counter(known).most_common(CONSTANTS)]
    if scorer in ("choice", "calibrated"):
        candidates = candidates[:1]
    best = max(candidates, key=lambda answer: sum(alike(answer, right) for right in known[:CONSTANTS]))
    return sum(alike(best, right) for right in asked) / len(asked)


def _same(said: str, right: str) -> float:
    return float(said == right)
