"""Gradient routing with RMU on top."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

from torch import nn

from redteam.engine.batches import AnyBatch
from redteam.unlearning.contract import UnlearningTask
from redteam.unlearning.rmu import RMU
from redteam.unlearning.routing import Routing


@dataclass(frozen=True, kw_only=True, slots=True)
class RoutingRMU:
    """Expand, route, ablate, and then steer the routed model's states on forget data.

    What stays of the forget set after the ablation, and what was never labelled but resembles it, is left to RMU.
    Without a labelled example there is nothing to steer, and the outcome is the routed model.

    Source: Cloud et al. 2024, Gradient Routing, section 4.2, "RMU + ERA" (arXiv 2410.04332).

    Attributes:
        extra: as of the method routing, like the next seven.
        original_multiplier: of a forget example's gradient at the original units.
        blocks: pattern of the MLP blocks that are expanded and routed.
        positions: "sequence" or "loss".
        l1: weight of the penalty on post-activations.
        coherence_steps: of fine-tuning on a few retain examples between the ablation and RMU.
        coherence_examples: how many.
        coherence_learning_rate: of AdamW.
        layer: as of the method rmu, like all that follow; empty for the last hidden layer.
        moved: which parameters RMU moves; empty for the MLP down-projections of that layer and the two before it.
        steering: length of the target state, in multiples of the mean norm.
        alpha: weight of the retain term.
        learning_rate: of AdamW.
        steps: optimizer steps of RMU.
        batch_size: forget examples a step of RMU, and as many retain examples.
    """

    extra: int = 64
    original_multiplier: float = -0.75
    blocks: str = "*"
    positions: str = "sequence"
    l1: float = 1e-4
    coherence_steps: int = 40
    coherence_examples: int = 64
    coherence_learning_rate: float = 3e-4
    layer: str = ""
    moved: str = ""
    steering: float = 4.0
    alpha: float = 8.0
    learning_rate: float = 2e-3
    steps: int = 150
    batch_size: int = 64

    name = "routing-rmu"
    version = 1
    goal = "expand, route, ablate, then RMU on the routed model"
    paper = "Cloud et al. 2024, Gradient Routing (arXiv 2410.04332); Li et al. 2024, WMDP (arXiv 2403.03218)"
    when = "training"
    kinds = "language, classifier"
    touches = "every weight, from nothing; then those that rmu moves"
    cost = "one plain training of a slightly wider model, and 150 steps"
    uses = ("routing", "rmu")

    def apply(self, task: UnlearningTask) -> nn.Module:
        """Trains a new model and unlearns it.

        Raises:
            InputError: as of routing and of rmu.
        """
        routed = Routing(**self._options_of(Routing)).apply(task)
        if len(task.forget) == 0:
            return routed
        return RMU(**self._options_of(RMU)).apply(replace(task, original=routed))

    def look_up(self, module: nn.Module, batch: AnyBatch) -> None:
        """Refuses a module that lacks what the options name.

        Raises:
            InputError: as of routing and of rmu.
        """
        for method in (Routing, RMU):
            method(**self._options_of(method)).look_up(module, batch)

    def _options_of(self, method: type[Routing] | type[RMU]) -> dict[str, Any]:
        """Returns this method's values of another's options."""
        return {field.name: getattr(self, field.name) for field in fields(method)}
