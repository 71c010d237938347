"""Gradient difference: up on what is to be forgotten, down on what must stay."""

from __future__ import annotations

import copy
from dataclasses import dataclass

from torch import Tensor, nn

from redteam.engine.batches import AnyBatch
from redteam.engine.optimizers import Tuning
from redteam.unlearning.contract import UnlearningTask
from redteam.unlearning.paired import capped_loss, train_in_pairs


@dataclass(frozen=True, kw_only=True, slots=True)
class GradDiff:
    """Raises the loss on the forget set, up to a cap, while it lowers the loss on the retain set.

    L = -min(CE_F, cap * log C) + alpha * CE_R, C the number of classes or the size of the vocabulary.

    Source: Liu et al. 2022, Continual Learning and Private Unlearning (arXiv 2203.12817); Maini et al. 2024, TOFU
    (arXiv 2401.06121), call it gradient difference. The cap is ours: without it the first term has no lower bound.
    It is above 1 because a batch can be as bad as a uniform guess on average while some of its answers are still
    right.

    Attributes:
        alpha: weight of the retain term.
        cap: largest forget loss, in multiples of that of a uniform guess.
        learning_rate: of AdamW without weight decay.
        steps: optimizer steps.
        batch_size: forget examples a step, and as many retain examples.
    """

    alpha: float = 1.0
    cap: float = 2.0
    learning_rate: float = 5e-4
    steps: int = 100
    batch_size: int = 64

    name = "graddiff"
    version = 1
    goal = "ascends the loss on the forget set up to a cap, descends it on the retain set"
    paper = "Liu et al. 2022, Continual Learning and Private Unlearning (arXiv 2203.12817)"
    when = "post hoc"
    kinds = "language, classifier"
    touches = "every weight"
    cost = "an eighth of plain training on facts, half of it on digits"

    def apply(self, task: UnlearningTask) -> nn.Module:
        """Returns the unlearned copy.

        Raises:
            Diverged: a loss is not finite.
        """

        def loss(live: nn.Module, forget: AnyBatch, retain: AnyBatch) -> Tensor:
            return self.alpha * retain.loss(live) - capped_loss(live, forget, self.cap)

        tuning = Tuning(learning_rate=self.learning_rate, steps=self.steps)
        module = copy.deepcopy(task.original)
        return train_in_pairs(module, task, loss, tuning, self.batch_size, name=self.name)
