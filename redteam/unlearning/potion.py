"""Potion: dampening with label-free importances and a threshold found by search, for poison that is partly known."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from redteam.errors import InputError
from redteam.unlearning.contract import UnlearningTask
from redteam.unlearning.importance import Importance, Reading, dampen_from, damping_factors, importances
from redteam.unlearning.own import share_right

ROUNDS, GROWTH, PART = 500, 1.1, 25


@dataclass(frozen=True, kw_only=True, slots=True)
class Potion:
    """Dampens ever more weights, each time from the original, until the identified examples are no longer predicted.

    The importance I_S is the mean over batches of |d/dw mean_x ||f(x)||_2|, which reads no label. Weights with
    I_f > alpha * I_D are multiplied with I_D / I_f where that is below 1; alpha is the p-th percentile of the finite
    I_f / I_D of all weights, p = 100 - ln(1 + 100 q). From q = |S_f| / (|S_f| + |R|) / 25, q grows by a tenth until
    the share of S_f that is predicted as labelled (for poison: as the poisoner labelled it) is at most `share_left`
    of what it was; at most 500 times. Importances are read once, and accuracy in evaluation mode, so the search is
    deterministic. Batches are cut from each set in the order it is stored.

    The search also ends where alpha is at most 1: from there on nothing changes. If it ends without having reached
    `share_left`, the last model is returned, as published, and the progress says so.

    Source: Schoepf et al. 2024, Potion: Towards Poison Unlearning (arXiv 2406.09173).

    Attributes:
        share_left: rho, the share of its right predictions on the forget set at which the search stops. The
            publication tries 0 to 0.75; which of them its headline figure belongs to is not known.
        batch_size: examples a batch, for both sets.
        full: D: "retain", as in the published code, or "all" (batches of the retain set, then of the forget set).
        evaluation: reads importances in evaluation mode.
        short_batch: whether a last batch that is not full counts, as much as any other.
    """

    share_left: float = 0.2
    batch_size: int = 64
    full: str = "retain"
    evaluation: bool = True
    short_batch: bool = True

    name = "potion"
    version = 1
    goal = "dampens weights by label-free importance until the identified examples are no longer predicted"
    paper = "Schoepf et al. 2024, Potion: Towards Poison Unlearning (arXiv 2406.09173)"
    when = "post hoc"
    kinds = "language, classifier"
    touches = "the weights that matter most to the forget set, wherever they are"
    cost = "one pass over all data, forward and backward, and at most 500 forward passes over the forget set"

    def __post_init__(self) -> None:
        """Refuses options that mean nothing.

        Raises:
            InputError: one of them.
        """
        self._reading().check()
        if not 0 <= self.share_left < 1:
            raise InputError(f"the share left is {self.share_left}", "Give a share from 0 to below 1")

    def apply(self, task: UnlearningTask) -> nn.Module:
        """Returns the dampened copy.

        Raises:
            InputError: no weight may move.
            Diverged: the norm of an output is not finite.
        """
        forget, full = importances(task, self._reading())
        allowed = self.share_left * share_right(task.original, task.forget)
        module = copy.deepcopy(task.original).eval()
        module.zero_grad(set_to_none=True)
        for done, alpha in enumerate(thresholds(forget, full, len(task.forget), len(task.retain)), start=1):
            dampen_from(task.original, module, damping_factors(forget, full, alpha=alpha, dampening=1.0))
            task.progress("searching for alpha (potion)", done, ROUNDS)
            if share_right(module, task.forget) <= allowed:
                return module
            if alpha <= 1:
                break
        task.progress("searching for alpha (potion): the forget set is still predicted", ROUNDS, ROUNDS)
        return module

    def _reading(self) -> Reading:
        return Reading(
            definition="norm",
            batch_size=self.batch_size,
            full=self.full,
            evaluation=self.evaluation,
            short_batch=self.short_batch,
        )


def thresholds(forget: Importance, full: Importance, identified: int, kept: int) -> Iterator[float]:
    """Yields alpha for each round of the search: lower and lower percentiles of the finite ratios I_f / I_D.

    Percentiles are interpolated linearly between order statistics. 0/0 and x/0 are not finite and do not take part.

    Args:
        forget: I_f, by parameter name.
        full: I_D, same names and shapes.
        identified: examples of S_f.
        kept: examples of the retain set.

    Raises:
        InputError: no ratio is finite.
    """
    ratios = torch.cat([(forget[name].double() / full[name].double()).flatten() for name in forget])
    ordered = ratios[torch.isfinite(ratios)].sort().values
    if len(ordered) == 0:
        raise InputError("no weight matters to what must stay", "Give a model whose outputs depend on its weights")
    share = identified / (identified + kept) / PART
    for _ in range(ROUNDS):
        yield _percentile(ordered, 100 - math.log1p(100 * share))
        share *= GROWTH


def _percentile(ordered: Tensor, percent: float) -> float:
    place = percent / 100 * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    low, high = float(ordered[below]), float(ordered[above])
    return low + (place - below) * (high - low)
