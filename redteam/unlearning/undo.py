"""UNDO: unlearn, noise, distil."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from redteam.engine.batches import AnyBatch, Examples, ordered_batches
from redteam.engine.optimizers import Tuning
from redteam.engine.seeding import seeded
from redteam.errors import InputError
from redteam.registry import METHODS
from redteam.unlearning.contract import UnlearningTask
from redteam.unlearning.paired import train_in_pairs

CHECK_EVERY = 10  # steps between two looks at what the student can do
SAMPLE = 1024  # retain examples that these looks are at


@dataclass(frozen=True, kw_only=True, slots=True)
class UNDO:
    """Unlearns, damages the weights so that what was only hidden is lost, and distils the outputs back.

    1. A post hoc method makes the teacher, of weights theta.
    2. The student starts from (1 - alpha) * theta + alpha * beta * N, with N Xavier-uniform for tensors of two or
       more dimensions and 0 for all others.
    3. It is trained on KL(teacher || student) at labelled tokens of retain and forget data, until it predicts
       `enough` of what the teacher does of the retain data, or to the last step.

    Source: Lee et al. 2025, Distillation Robustifies Unlearning (arXiv 2506.06278).
    Xavier noise, its scale and the stop are those of the official code.

    Attributes:
        stage: method of the first step, with its defaults.
        alpha: share of the weights that is replaced, in [0, 1].
        beta: scale of the noise.
        forget_weight: weight of the distillation on forget data; that on retain data is 1.
        whole: retain data is all training data not labelled to be forgotten, where that is known, as the paper distils
            on the pretraining corpus; otherwise, and where it is not known, it is the retain set alone.
        enough: share of the teacher's accuracy on retain data at which distillation ends.
        learning_rate: of AdamW without weight decay, at the peak of one cycle.
        steps: most steps of distillation.
        batch_size: forget examples a step, and as many retain examples.
    """

    stage: str = "graddiff"
    alpha: float = 0.5
    beta: float = 0.1
    forget_weight: float = 1.0
    whole: bool = True
    enough: float = 0.95
    learning_rate: float = 3e-3
    steps: int = 600
    batch_size: int = 128

    name = "undo"
    version = 1
    goal = "unlearns, damages all weights, and distils the unlearned outputs into what is left"
    paper = "Lee et al. 2025, Distillation Robustifies Unlearning (arXiv 2506.06278)"
    when = "post hoc"
    kinds = "language, classifier"
    touches = "every weight"
    cost = "at most 600 steps of distillation, about one plain training on facts and on digits"

    def __post_init__(self) -> None:
        """Refuses a share of the weights that is none.

        Raises:
            InputError: alpha is not in [0, 1].
        """
        if not 0 <= self.alpha <= 1:
            raise InputError(f"alpha of the method undo is {self.alpha}", "Give a share between 0 and 1")

    @property
    def uses(self) -> tuple[str, ...]:
        """The method of the first step."""
        return (self.stage,)

    def apply(self, task: UnlearningTask) -> nn.Module:
        """Returns the distilled student.

        Raises:
            InputError: the first stage is no post hoc method, or does not fit the model.
            Diverged: a loss is not finite.
        """
        teacher = self._first().apply(task)
        student = corrupted(teacher, self.alpha, self.beta, seeded(task.seed, self.name, "noise"))
        if self.whole and task.training is not None:
            task = replace(task, retain=task.training.rest)
        order = torch.randperm(len(task.retain), generator=seeded(task.seed, self.name, "shown"))
        shown = task.retain.take(order[:SAMPLE])
        wanted = self.enough * accuracy(teacher, shown)

        def loss(live: nn.Module, forget: AnyBatch, retain: AnyBatch) -> Tensor:
            return divergence(teacher, live, retain) + self.forget_weight * divergence(teacher, live, forget)

        def good(done: int) -> bool:
            return done % CHECK_EVERY == 0 and accuracy(student, shown) >= wanted

        tuning = Tuning(learning_rate=self.learning_rate, schedule="one-cycle", steps=self.steps, clip=1.0)
        return train_in_pairs(student, task, loss, tuning, self.batch_size, name=self.name, stop=good)

    def _first(self) -> Any:
        method: Any = METHODS.create(self.stage)
        if method.when != "post hoc" or method.name == self.name:
            raise InputError(
                f"undo cannot begin with {self.stage}", "Give a post hoc method other than undo, such as graddiff"
            )
        return method


@torch.no_grad()
def corrupted(module: nn.Module, alpha: float, beta: float, generator: torch.Generator) -> nn.Module:
    """Returns a copy with every parameter at (1 - alpha) * p + alpha * beta * N; buffers stay.

    N is Xavier-uniform for tensors of two or more dimensions (of a convolution, the fans count its receptive field)
    and 0 for all others, so gains and biases only shrink. A parameter that two modules share is corrupted once.
    """
    copied = copy.deepcopy(module)
    for parameter in copied.parameters():
        parameter.mul_(1 - alpha)
        if parameter.dim() > 1:
            noise = nn.init.xavier_uniform_(torch.empty_like(parameter), generator=generator)
            parameter.add_(noise, alpha=alpha * beta)
    return copied


def divergence(teacher: nn.Module, student: nn.Module, batch: AnyBatch) -> Tensor:
    """Returns KL(teacher || student), the mean over labelled tokens, in nats. A scalar; no gradient to the teacher."""
    with torch.no_grad():
        aim = batch.predictions(teacher).logits.log_softmax(dim=-1)
    said = batch.predictions(student).logits.log_softmax(dim=-1)
    return functional.kl_div(said, aim, reduction="batchmean", log_target=True)


@torch.no_grad()
def accuracy(module: nn.Module, data: Examples) -> float:
    """Returns the share of labels that a module in evaluation mode predicts; its mode is left as it was."""
    mode = module.training
    module.eval()
    right = total = 0
    for batch in ordered_batches(data, 256):
        said = batch.predictions(module)
        right += int((said.logits.argmax(dim=-1) == said.labels).sum())
        total += len(said.labels)
    module.train(mode)
    return right / max(1, total)
