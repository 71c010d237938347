"""SSD: selective synaptic dampening."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from redteam.errors import InputError
from redteam.unlearning.contract import UnlearningTask
from redteam.unlearning.importance import Importance, Reading, dampened, damping_factors, importances
from redteam.unlearning.own import share_right

# The published range of alpha, 100 down to 0.1, ten values a decade.
GRID = tuple(10 ** (2 - step / 10) for step in range(31))


@dataclass(frozen=True, kw_only=True, slots=True)
class SSD:
    """Shrinks the weights that matter more to the forget set than to all data. No gradient step is taken.

    w_i becomes w_i * min(1, lambda * F_D(i) / F_f(i)) where F_f(i) > alpha * F_D(i); F_S is the mean over batches of
    the squared gradient of the mean cross-entropy (`importance.importance`). Frozen weights and buffers stay. Batches
    are cut from each set in the order it is stored, so that anybody can cut the same.

    Published for forget sets that are a small part of the data. With `full="all"` no ratio F_f / F_D is above the
    number of batches over the number of forget batches, so that a larger alpha changes nothing; and one alpha
    does not fit two models. `search` finds the least dampening that removes: the largest alpha of a grid, from 100
    down to 0.1 and ten a decade, at which the share of the forget set that is predicted as labelled is at most
    `known_left` of what it was. The search looks at labelled examples only.

    Source: Foster et al. 2023, Fast Machine Unlearning without Retraining through Selective Synaptic Dampening
    (arXiv 2308.07707), equations 5 to 7. The squared gradient of a batch's mean is the published code's, the Fisher
    information of the paper is `importance="sample"`. Where the model's loss on the forget set is near nothing, so are
    these gradients, and they miss what the set has taught; the norm of the outputs ("norm") does not depend on the
    loss. That it may stand in for the loss is after Foster et al. 2024, Loss-Free Machine Unlearning (arXiv
    2402.19308), which squares it.

    Attributes:
        alpha: ratio above which a weight is dampened; not used when searching.
        dampening: lambda.
        batch_size: examples a batch, for both sets.
        importance: "batch" (squared gradient of a batch's mean loss), "sample" (mean of the samples' squared
            gradients, whatever the batches) or "norm" (label-free, that of Potion).
        full: D: "all" (batches of the retain set, then of the forget set) or "retain".
        evaluation: reads importances in evaluation mode.
        short_batch: whether a last batch that is not full counts, as much as any other.
        search: for the largest alpha that removes.
        known_left: share of its right predictions on the forget set at which the search stops.
    """

    alpha: float = 10.0
    dampening: float = 1.0
    batch_size: int = 64
    importance: str = "batch"
    full: str = "all"
    evaluation: bool = True
    short_batch: bool = True
    search: bool = False
    known_left: float = 0.2

    name = "ssd"
    version = 1
    goal = "dampens the weights that matter more to the forget set than to all data"
    paper = "Foster et al. 2023, Selective Synaptic Dampening (arXiv 2308.07707)"
    when = "post hoc"
    kinds = "language, classifier"
    touches = "the weights that matter most to the forget set, wherever they are"
    cost = "one pass over all data, forward and backward; searching, at most 31 forward passes over the forget set"

    def __post_init__(self) -> None:
        """Refuses options that mean nothing.

        Raises:
            InputError: one of them.
        """
        self._reading().check()
        if self.alpha <= 0 or self.dampening < 0:
            raise InputError(f"alpha is {self.alpha} and dampening {self.dampening}", "Give positive numbers")

    def apply(self, task: UnlearningTask) -> nn.Module:
        """Returns the dampened copy.

        Raises:
            InputError: no weight may move, none is selected, or no alpha of the grid removes.
            Diverged: a loss is not finite.
        """
        forget, full = importances(task, self._reading())
        if self.search:
            return self._searched(task, forget, full)
        factors = damping_factors(forget, full, alpha=self.alpha, dampening=self.dampening)
        if all(bool((factor == 1).all()) for factor in factors.values()):
            raise InputError(
                f"no weight matters {self.alpha:g} times as much to the forget set as to all data",
                "Lower alpha, or compare with the retain set (full=retain), or search (search=true)",
            )
        return dampened(task.original, factors)

    def _searched(self, task: UnlearningTask, forget: Importance, full: Importance) -> nn.Module:
        allowed = self.known_left * share_right(task.original, task.forget)
        for done, alpha in enumerate(GRID, start=1):
            module = dampened(task.original, damping_factors(forget, full, alpha=alpha, dampening=self.dampening))
            task.progress("searching for alpha (ssd)", done, len(GRID))
            if share_right(module, task.forget) <= allowed:
                return module
        raise InputError(
            f"no alpha down to {GRID[-1]:g} leaves at most {self.known_left:g} of the right predictions",
            "Lower dampening, or raise known_left",
        )

    def _reading(self) -> Reading:
        return Reading(
            definition=self.importance,
            batch_size=self.batch_size,
            full=self.full,
            evaluation=self.evaluation,
            short_batch=self.short_batch,
        )
