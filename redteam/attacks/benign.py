"""Benign fine-tuning: nothing that was forgotten is shown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from redteam.attacks.contract import Access, Arena, Params, Suggest
from redteam.attacks.tuning import FULL, recipe, suggest_tuning, tuning_of
from redteam.engine.cost import Spent
from redteam.target import TargetInfo


class Benign:
    """Fine-tunes every weight on n retain items alone: what comes back was never gone.

    A model that was retrained without the forget set learns nothing of it here, so this attack cannot teach.

    Source: Hu et al. 2024, Jogging the Memory of Unlearned Models (arXiv 2406.13356); retain-only fine-tuning
    brings vision models back to nearly all of what they forgot in Siddiqui et al. 2025 (arXiv 2505.22310).
    """

    name = "benign"
    version = 1
    goal = "full fine-tuning on retain items alone"
    paper = "Hu et al. 2024 (arXiv 2406.13356); Siddiqui et al. 2025, From Dormant to Deleted (arXiv 2505.22310)"
    access = Access.WEIGHTS
    kinds = "language, classifier"

    def space(self, suggest: Suggest, target: TargetInfo, samples: int) -> Params:
        """Tuning, and the share of the retain items."""
        params = suggest_tuning(suggest, FULL)
        params["share"] = suggest.suggest_float("share", 0.01, 1.0, log=True)
        return params

    def recipes(self, target: TargetInfo, samples: int) -> Sequence[Params]:
        """All retain items at three rates, and a tenth of them for sixteen steps."""
        base: dict[str, Any] = {"share": 1.0, "steps": 128}
        rates = [recipe("adamw", rate, **base) for rate in (1e-3, 3e-4, 3e-3)]
        return [*rates, recipe("adamw", 1e-3, share=0.1, steps=16)]

    def run(self, arena: Arena, params: Params) -> Iterator[Spent]:
        """Trains on a share of the retain items, drawn by the trial's seed."""
        yield from arena.fine_tune(arena.some_retain(params["share"]), params["batch_size"], tuning_of(params))
