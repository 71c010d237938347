"""Gradient ascent: the oldest and crudest way to unlearn."""

from __future__ import annotations

import copy
from dataclasses import dataclass

from torch import Tensor, nn

from redteam.engine.batches import AnyBatch
from redteam.engine.optimizers import Tuning
from redteam.unlearning.contract import UnlearningTask
from redteam.unlearning.paired import train_in_pairs, uniform_loss


@dataclass(frozen=True, kw_only=True, slots=True)
class GradientAscent:
    """Maximises the cross-entropy of the forget set until a batch of it is well below a uniform guess.

    L = -min(CE_F, cap * log C), C the number of classes or the size of the vocabulary; the step whose batch exceeds
    the cap is the last. Nothing holds what must stay, and the higher the cap, the less of it is left: an exemplar of
    unlearning that breaks the model.

    Source: Jang et al. 2023, Knowledge Unlearning for Mitigating Privacy Risks in Language Models (arXiv
    2210.01504). The cap is not in the paper, which stops by a measure of memorisation.

    Attributes:
        cap: largest loss, in multiples of that of a uniform guess.
        learning_rate: of AdamW without weight decay.
        steps: most optimizer steps.
        batch_size: forget examples a step.
    """

    cap: float = 2.0
    learning_rate: float = 3e-4
    steps: int = 100
    batch_size: int = 64

    name = "ga"
    version = 1
    goal = "ascends the loss on the forget set up to a cap; nothing protects utility"
    paper = "Jang et al. 2023, Knowledge Unlearning (arXiv 2210.01504)"
    when = "post hoc"
    kinds = "language, classifier"
    touches = "every weight"
    cost = "a few dozen steps"

    def apply(self, task: UnlearningTask) -> nn.Module:
        """Returns the unlearned copy.

        Raises:
            Diverged: a loss is not finite.
        """
        reached = False

        def loss(live: nn.Module, forget: AnyBatch, _retain: AnyBatch) -> Tensor:
            nonlocal reached
            said = forget.predictions(live)
            highest = self.cap * uniform_loss(said)
            reached = bool(said.loss > highest)
            return -said.loss.clamp(max=highest)

        tuning = Tuning(learning_rate=self.learning_rate, steps=self.steps)
        module = copy.deepcopy(task.original)
        return train_in_pairs(module, task, loss, tuning, self.batch_size, name=self.name, stop=lambda _done: reached)
