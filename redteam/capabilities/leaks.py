"""What of the certify split can be answered from the attack split alone, without any model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from redteam.capabilities.duplicates import normal_form
from redteam.capabilities.items import Capability, Item

BLOCK = 256  # items compared at a time


def answered_by_nearest(capability: Capability) -> list[float]:
    """Returns for each certify item whether the answer of the most similar attack item is right, [items].

    Where no fact is in both splits that is at chance: questions about two people may be worded alike, but their answers
    have nothing to do with each other. Where it is above, attacks teach what they are supposed to recover, to the
    reference too, and both look alike. Only items whose answer is among an item's own choices are compared, all of
    them where nothing is chosen; those that are equally similar count equally; words count by how rare they are.

    Of a classifier nothing is returned: its answers are the classes that were removed, and what resembles its inputs is
    what generalisation is about. An input that occurs twice is refused.
    """
    if capability.kind != "language":
        return []
    from sklearn.feature_extraction.text import TfidfVectorizer

    attack, certify = capability.attack, capability.certify
    try:
        words = TfidfVectorizer(token_pattern=r"(?u)\b\w+\b")
        weights = words.fit_transform([normal_form(item.prompt) for item in (*attack, *certify)])
    except ValueError:  # there is not a word in any of them
        return [1 / len(item.choices) for item in certify]
    known, asked = weights[: len(attack)], weights[len(attack) :]
    answers = np.array([normal_form(item.completion) for item in attack])
    found: list[float] = []
    for start in range(0, len(certify), BLOCK):
        alike = (asked[start : start + BLOCK] @ known.T).toarray()
        found += [_right(item, row, answers) for item, row in zip(certify[start : start + BLOCK], alike, strict=True)]
    return found


def _right(item: Item, alike: NDArray[np.float64], answers: NDArray[np.str_]) -> float:
    """Returns which share of the most similar attack items has the answer to this one; of none, a blind draw."""
    possible = np.isin(answers, _offered(item)) if len(item.choices) > 1 else np.ones(len(answers), dtype=bool)
    if not possible.any():
        return 1 / len(item.choices) if len(item.choices) > 1 else 0.0
    nearest = possible & np.isclose(alike, alike[possible].max(), rtol=1e-9)
    return float((answers[nearest] == normal_form(item.completion)).mean())


def _offered(item: Item) -> Sequence[str]:
    return [normal_form(choice) for choice in item.choices]
