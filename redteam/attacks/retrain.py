"""Few-shot forget-set retraining: full fine-tuning on part of what was forgotten."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from redteam.attacks.contract import Access, Arena, Params, Suggest
from redteam.attacks.tuning import forget_data
from redteam.engine.cost import Spent
from redteam.engine.optimizers import Tuning
from redteam.target import TargetInfo


class Retrain:
    """Fine-tunes every weight on n forget items and hopes that the others come back with them.

    Learning rates go from where an update barely moves a weight to where training falls apart, because the rate
    that works depends on the target and a fixed one makes weak attacks look like robust models.
    """

    name = "retrain"
    version = 1
    goal = "full fine-tuning on a few forget items, scored on facts it never saw"
    paper = "Deeb & Roger 2024, Do Unlearning Methods Remove Information from Language Model Weights?"
    access = Access.WEIGHTS
    kinds = "language, classifier"

    def space(self, suggest: Suggest, target: TargetInfo, samples: int) -> Params:
        """Number of samples, optimizer, learning rate (per optimizer), schedule, steps, batch size, loss."""
        optimizer = suggest.suggest_categorical("optimizer", ["adamw", "sgd"])
        low, high = (1e-6, 1e-2) if optimizer == "adamw" else (1e-4, 1.0)
        return {
            "optimizer": optimizer,
            f"learning_rate.{optimizer}": suggest.suggest_float(f"learning_rate.{optimizer}", low, high, log=True),
            "samples": suggest.suggest_int("samples", 1, samples, log=True),
            "schedule": suggest.suggest_categorical("schedule", ["constant", "cosine"]),
            "steps": suggest.suggest_categorical("steps", [16, 32, 64, 128]),
            "batch_size": suggest.suggest_categorical("batch_size", [8, 16, 32, 64]),
            "loss": suggest.suggest_categorical("loss", ["answer", "text"]),
        }

    def recipes(self, target: TargetInfo, samples: int) -> Sequence[Params]:
        """A learning-rate grid with all samples, then the few-shot and the cautious settings of the literature.

        The grid: Siddiqui et al. 2025 (UNDO) take the worst case over ten rates from 1e-6 to 1e-3, since no single
        rate is the worst for every model. Sixteen steps: Che et al. 2025 (arXiv 2502.05209). 2e-5 with a cosine:
        O'Brien et al. 2025, Deep Ignorance.
        """
        base: dict[str, Any] = {
            "optimizer": "adamw",
            "samples": samples,
            "schedule": "constant",
            "steps": 64,
            "batch_size": 64,
            "loss": "answer",
        }
        rates = (3e-4, 1e-3, 1e-4)
        grid = [{**base, "learning_rate.adamw": rate} for rate in rates]
        few_shot = {
            **base,
            "learning_rate.adamw": 3e-4,
            "samples": min(64, samples),
            "steps": 16,
            "batch_size": 16,
        }
        cautious = {**base, "learning_rate.adamw": 2e-5, "schedule": "cosine", "steps": 128}
        high = {**base, "learning_rate.adamw": 3e-3, "steps": 16}
        return [*grid, few_shot, high, cautious]

    def run(self, arena: Arena, params: Params) -> Iterator[Spent]:
        """Trains on the first `samples` attack items."""
        data = forget_data(arena, params)
        tuning = Tuning(
            optimizer=params["optimizer"],
            learning_rate=params[f"learning_rate.{params['optimizer']}"],
            schedule=params["schedule"],
            steps=params["steps"],
            clip=1.0,
        )
        yield from arena.fine_tune(data, params["batch_size"], tuning)
