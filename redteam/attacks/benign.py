"""Benign fine-tuning: nothing that was forgotten is shown, or nothing at all that is true."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from redteam.attacks.contract import Access, Arena, Params, Suggest
from redteam.attacks.tuning import FULL, at_width, recipe, suggest_tuning, tuning_of
from redteam.capabilities.wording import Wording
from redteam.engine.batches import IGNORED, PADDING, Examples, LabelledSet, TextSet, TokenSet
from redteam.engine.cost import Spent
from redteam.engine.seeding import seeded
from redteam.target import TargetInfo

COMMON = 0.05  # share of the items of each side from which on a word is part of their form
PARTS = re.compile(r"\w+|[^\w\s]")  # words and marks


class Benign:
    """Fine-tunes every weight on n retain items, on those of the same form, or on unrelated data.

    What comes back was never gone.

    A model that was retrained without the forget set learns nothing of it here, so this attack cannot teach. The
    same form is that of the forget items' sentences, about another topic: see `nearest_in_form`. The
    unrelated data are the retain items with all that they consist of dealt anew, at random: words, or pixels and
    labels, that a model of this kind reads, and no statement.

    Source: Hu et al. 2024, Jogging the Memory of Unlearned Models (arXiv 2406.13356); retain-only fine-tuning
    brings vision models back to nearly all of what they forgot in Siddiqui et al. 2025 (arXiv 2505.22310); ten
    unrelated examples undo RMU in Łucki et al. 2024 (arXiv 2409.18025). That form counts for more than topic: Yoon
    et al. 2026, Rethinking Benign Relearning (arXiv 2602.03379).
    """

    name = "benign"
    version = 5
    goal = "full fine-tuning on retain items alone, on those of the same form, or on unrelated data"
    paper = "Hu et al. 2024 (arXiv 2406.13356); Siddiqui et al. 2025 (arXiv 2505.22310); Yoon et al. 2026"
    access = Access.WEIGHTS
    kinds = "language, classifier"

    def space(self, suggest: Suggest, target: TargetInfo, samples: int) -> Params:
        """Tuning, the share of the retain items, which of them, and whether they are left as they are."""
        params = suggest_tuning(suggest, FULL)
        params["data"] = suggest.suggest_categorical("data", ["retain", "same form", "unrelated"])
        params["share"] = suggest.suggest_float("share", 0.01, 1.0, log=True)
        return params

    def recipes(self, target: TargetInfo, samples: int) -> Sequence[Params]:
        """All retain items, the quarter nearest in form, all at another rate, a few dealt anew, and two more."""
        every: dict[str, Any] = {"data": "retain", "share": 1.0, "steps": 128}
        rates = [recipe("adamw", rate, **every) for rate in (1e-3, 3e-4, 3e-3)]
        unrelated = recipe("adamw", 1e-3, data="unrelated", share=0.05, batch_size=8)
        alike = recipe("adamw", 1e-3, **every | {"data": "same form", "share": 0.25})
        few = recipe("adamw", 1e-3, data="retain", share=0.1, steps=16)
        return at_width([rates[0], alike, rates[1], unrelated, rates[2], few], target, FULL)

    def run(self, arena: Arena, params: Params) -> Iterator[Spent]:
        """Trains on a share of the retain items, drawn by the trial's seed. Of a classifier's none has a form."""
        count = params["share"] * len(arena.retain)
        data = arena.some_retain(count)
        if params["data"] == "same form" and arena.wording is not None:
            data = arena.retain.take(nearest_in_form(arena.wording, arena.seed)[: len(data)])
        if params["data"] == "unrelated":
            data = dealt_anew(data, seeded(arena.seed, "unrelated"))
        yield from arena.fine_tune(data, params["batch_size"], tuning_of(params))


def nearest_in_form(wording: Wording, seed: int) -> Tensor:
    """Returns rows of all retain items, those first whose sentences are formed most like one of the attack split.

    The form of a sentence is the sequence of its marks and of the words that both sides have in common, those that a
    twentieth of either's items have; of any other word there is left whether it begins with a digit or a capital. Forms
    are compared by the cosine of how often two of these follow each other. Alike ones are in the seed's order.

    Returns:
        int64 [items].
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    attack, retain = (
        [PARTS.findall(f"{item.prompt} {item.completion}") for item in side]
        for side in (wording.attack, wording.retain)
    )
    common = _frequent(attack) & _frequent(retain)
    pairs = TfidfVectorizer(analyzer=lambda parts: list(pairwise(_form(parts, common))), use_idf=False)
    forms = pairs.fit_transform([*attack, *retain])
    alike = (forms[len(attack) :] @ forms[: len(attack)].T).toarray().max(axis=1).round(6)
    order = torch.randperm(len(alike), generator=seeded(seed, "form"))
    return order[torch.argsort(torch.from_numpy(alike)[order], descending=True, stable=True)]


def _frequent(side: Sequence[Sequence[str]]) -> set[str]:
    """Returns the words, in lower case, that a twentieth of the sentences have."""
    counts = Counter(word for parts in side for word in {part.lower() for part in parts})
    return {word for word, count in counts.items() if count >= COMMON * len(side)}


def _form(parts: Sequence[str], common: set[str]) -> Iterator[str]:
    yield "start"
    for part in parts:
        lower = part.lower()
        if lower in common or not part[0].isalnum():
            yield f"as it is: {lower}"
        else:
            yield "a number" if part[0].isdigit() else "a name" if part[0].isupper() else "a word"
    yield "end"


def dealt_anew(data: Examples, generator: torch.Generator) -> Examples:
    """Returns examples of the same shapes, made of what the given ones consist of, at random.

    Of text every token of every sequence, the loss on all but the first; of a classifier's inputs every entry, of its
    texts every token, and labels of their own shuffling.
    """
    if isinstance(data, LabelledSet):
        dealt = torch.ones_like(data.inputs, dtype=torch.bool)
        if isinstance(data, TextSet):
            dealt = data.inputs != PADDING
        entries, inputs = data.inputs[dealt], data.inputs.clone()
        inputs[dealt] = entries[torch.randperm(len(entries), generator=generator)]
        return replace(data, inputs=inputs, labels=data.labels[torch.randperm(len(data), generator=generator)])
    real = torch.arange(data.input_ids.shape[1]) < data.lengths[:, None]
    tokens = data.input_ids[real]
    ids = data.input_ids.clone()
    ids[real] = tokens[torch.randperm(len(tokens), generator=generator)]
    real[:, 0] = False
    return TokenSet(ids, torch.where(real, ids, IGNORED), data.lengths)
