"""Benign fine-tuning: nothing that was forgotten is shown, or nothing at all that is true."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch

from redteam.attacks.contract import Access, Arena, Params, Suggest
from redteam.attacks.tuning import FULL, at_width, recipe, suggest_tuning, tuning_of
from redteam.engine.batches import IGNORED, PADDING, Examples, LabelledSet, TextSet, TokenSet
from redteam.engine.cost import Spent
from redteam.engine.seeding import seeded
from redteam.target import TargetInfo


class Benign:
    """Fine-tunes every weight on n retain items, or on unrelated data: what comes back was never gone.

    A model that was retrained without the forget set learns nothing of it here, so this attack cannot teach. The
    unrelated data are the retain items with all that they consist of dealt anew, at random: words, or pixels and
    labels, that a model of this kind reads, and no statement.

    Source: Hu et al. 2024, Jogging the Memory of Unlearned Models (arXiv 2406.13356); retain-only fine-tuning
    brings vision models back to nearly all of what they forgot in Siddiqui et al. 2025 (arXiv 2505.22310); ten
    unrelated examples undo RMU in Łucki et al. 2024 (arXiv 2409.18025).
    """

    name = "benign"
    version = 4
    goal = "full fine-tuning on retain items alone, or on unrelated data"
    paper = "Hu et al. 2024 (arXiv 2406.13356); Siddiqui et al. 2025 (arXiv 2505.22310); Łucki et al. 2024"
    access = Access.WEIGHTS
    kinds = "language, classifier"

    def space(self, suggest: Suggest, target: TargetInfo, samples: int) -> Params:
        """Tuning, the share of the retain items, and whether they are left as they are."""
        params = suggest_tuning(suggest, FULL)
        params["data"] = suggest.suggest_categorical("data", ["retain", "unrelated"])
        params["share"] = suggest.suggest_float("share", 0.01, 1.0, log=True)
        return params

    def recipes(self, target: TargetInfo, samples: int) -> Sequence[Params]:
        """All retain items at two rates, a twentieth of them dealt anew, another rate, and a tenth of them."""
        every: dict[str, Any] = {"data": "retain", "share": 1.0, "steps": 128}
        rates = [recipe("adamw", rate, **every) for rate in (1e-3, 3e-4, 3e-3)]
        unrelated = recipe("adamw", 1e-3, data="unrelated", share=0.05, batch_size=8)
        few = recipe("adamw", 1e-3, data="retain", share=0.1, steps=16)
        return at_width([*rates[:2], unrelated, rates[2], few], target, FULL)

    def run(self, arena: Arena, params: Params) -> Iterator[Spent]:
        """Trains on a share of the retain items, drawn by the trial's seed."""
        data = arena.some_retain(params["share"] * len(arena.retain))
        if params["data"] == "unrelated":
            data = dealt_anew(data, seeded(arena.seed, "unrelated"))
        yield from arena.fine_tune(data, params["batch_size"], tuning_of(params))


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
