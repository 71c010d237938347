"""Retraining on forget and retain items together: what comes back need not cost the rest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from redteam.attacks.contract import Access, Arena, Params, Suggest
from redteam.attacks.tuning import FULL, forget_data, recipe, suggest_data, suggest_tuning, tuning_of
from redteam.engine.batches import join
from redteam.engine.cost import Spent
from redteam.target import TargetInfo


class Mixture:
    """Fine-tunes every weight on n forget items among retain items, as the original was trained.

    Defences that break the model when forget items are trained on (TAR among them) look strong at a utility floor
    for as long as the adversary does not also train on what must stay.

    Source: Tamirisa et al. 2024, Tamper-Resistant Safeguards, red-teams with such a mixture (arXiv 2408.00761);
    Qi et al. 2024, Evaluating the Durability of Safeguards (arXiv 2412.07097).
    """

    name = "mixture"
    version = 1
    goal = "full fine-tuning on forget and retain items together"
    paper = "Tamirisa et al. 2024 (arXiv 2408.00761); Qi et al. 2024 (arXiv 2412.07097)"
    access = Access.WEIGHTS
    kinds = "language, classifier"

    def space(self, suggest: Suggest, target: TargetInfo, samples: int) -> Params:
        """Tuning, data, and the share of the retain items."""
        params = suggest_tuning(suggest, FULL) | suggest_data(suggest, samples)
        params["share"] = suggest.suggest_float("share", 0.01, 1.0, log=True)
        return params

    def recipes(self, target: TargetInfo, samples: int) -> Sequence[Params]:
        """All of both at three rates, and all forget items with a few retain items."""
        base: dict[str, Any] = {"samples": samples, "loss": "answer", "steps": 128}
        rates = [recipe("adamw", rate, share=1.0, **base) for rate in (1e-3, 3e-4, 3e-3)]
        return [*rates, recipe("adamw", 1e-3, share=0.1, **base)]

    def run(self, arena: Arena, params: Params) -> Iterator[Spent]:
        """Trains on the first `samples` attack items and a share of the retain items, shuffled together."""
        data = join(forget_data(arena, params), arena.some_retain(params["share"]))
        yield from arena.fine_tune(data, params["batch_size"], tuning_of(params))
