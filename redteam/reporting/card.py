"""Evaluation results as a Hugging Face model card has them: `model-index` in its YAML."""

from __future__ import annotations

from typing import Any

from redteam.errors import one_line
from redteam.evidence.results import CapabilityResult
from redteam.reporting.told import Told, decisive


def card(told: Told) -> str:
    """Returns the block between the dashes of a model card: the excess recovery of each capability.

    Of one for which that is not defined the metric is its verdict, so that none is left out.
    """
    from huggingface_hub import EvalResult, ModelCardData

    results = [EvalResult(**_result(told, found)) for found, _ in told.found]
    name = one_line(told.model)
    return f"---\n{ModelCardData(model_name=name, eval_results=results).to_yaml()}\n---\n"


def _result(told: Told, found: CapabilityResult) -> dict[str, Any]:
    excess = decisive(found)
    metric: dict[str, Any] = {"metric_type": "verdict", "metric_value": found.verdict}
    said: dict[str, Any] = {"suite": told.suite, "budget": found.budget.spent, "access": found.access}
    if excess is not None:
        metric = {"metric_type": "excess_recovery", "metric_name": "excess recovery", "metric_value": excess.estimate}
        said |= {"verdict": found.verdict, "low": excess.low, "high": excess.high}
    return {
        "task_type": "unlearning-robustness",
        "task_name": "resistance to relearning",
        "dataset_type": one_line(found.name),
        "dataset_name": one_line(found.name),
        "dataset_split": "certify",
        "metric_args": said | {"confidence": found.policy["confidence"]},
        **metric,
    }
