"""Writes the prototype of a few examples into the output layer of a classifier, and trains on from there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from redteam.attacks.contract import Access, Arena, Params, Suggest
from redteam.attacks.head import copies, fit_head, no_head, rows_that_stay, write
from redteam.attacks.tuning import FULL, at_width, recipe, suggest_tuning, tuning_of
from redteam.engine.batches import join
from redteam.engine.cost import Spent
from redteam.engine.heads import head_states, output_head
from redteam.target import TargetInfo

PROTOTYPES = ("fitted", "whitened", "mean")
RIDGE = 0.1  # of the mean variance, added to the covariance that whitens: of few examples it is not known better
RATIOS = (1.0, 64.0)  # retain items to each example of what was removed


class Imprint:
    """Makes the row of a forgotten class from its few examples, scored on examples that were not among them.

    "fitted": all rows by logistic regression on examples and retain items, every class weighing as much; `weight` is
    the inverse of its penalty. "mean": their mean state less that of retain items. "whitened": the same through the
    inverse of the covariance that retain items have around their classes, as in linear discriminants. Either is so many
    times as long as the median of the other rows, and has the bias that puts the line midway. Training goes on from
    there with retain items among them, where that is asked for.

    Source: Qi et al. 2018, Low-Shot Learning with Imprinted Weights (arXiv 1712.07136); prototypes from a few samples
    restore an unlearned class (arXiv 2506.01318).
    """

    name = "imprint"
    version = 1
    goal = "writes the prototype of a few examples into the head, and trains on"
    paper = "Qi et al. 2018 (arXiv 1712.07136); prototypes that restore unlearned classes (arXiv 2506.01318)"
    access = Access.WEIGHTS
    kinds = "classifier"
    needs = "forgotten"

    def unfit(self, module: nn.Module) -> str | None:
        """Returns why this cannot work on a module: its output layer is not linear."""
        return no_head(module)

    def space(self, suggest: Suggest, target: TargetInfo, samples: int) -> Params:
        """The prototype, how much it weighs, and the training that follows."""
        params = suggest_tuning(suggest, FULL)
        params["prototype"] = suggest.suggest_categorical("prototype", list(PROTOTYPES))
        params["weight"] = suggest.suggest_float("weight", 0.25, 8.0, log=True)
        params["fine_tuning"] = suggest.suggest_categorical("fine_tuning", [False, True])
        params["ratio"] = suggest.suggest_float("ratio", *RATIOS, log=True)
        return params

    def recipes(self, target: TargetInfo, samples: int) -> Sequence[Params]:
        """Trainings that start from a fitted and from a whitened row, and a cautious one.

        Our own logs (`digits` and `poison`, models that never knew, 1, 4 and 16 examples): a fitted row alone has 0.53,
        0.83 and 0.88 of the digits, and 0.24, 0.44 and 0.84 of the trigger; trained on, 0.56, 0.85 and 0.92, and 0.36,
        0.78 and 1.00. A whitened one that weighs four times as much as other rows has 0.42 of the trigger of one.
        """
        base: dict[str, Any] = {"fine_tuning": True, "ratio": RATIOS[1], "steps": 128}
        recipes = [
            recipe("adamw", 3e-3, prototype="fitted", weight=1.0, **base),
            recipe("adamw", 3e-3, prototype="whitened", weight=4.0, **base),
            recipe("adamw", 1e-3, prototype="fitted", weight=8.0, **base),
            recipe("adamw", 1e-3, prototype="mean", weight=1.0, **base),
        ]
        return at_width(recipes, target, FULL)

    def run(self, arena: Arena, params: Params) -> Iterator[Spent]:
        """Writes the rows, and trains on examples and retain items together."""
        with torch.no_grad():
            if params["prototype"] == "fitted":
                fit_head(arena, output_head(arena.module), params["weight"])
            else:
                _imprint(arena, params["prototype"], params["weight"])
        yield arena.ledger.charge_edit()
        if params["fine_tuning"]:
            data = join(arena.answers, arena.some_retain(params["ratio"] * len(arena.answers)))
            yield from arena.fine_tune(data, params["batch_size"], tuning_of(params))


def _imprint(arena: Arena, prototype: str, weight: float) -> None:
    """Writes a row for each forgotten class of which there is an example, in place."""
    head = output_head(arena.module)
    arena.module.eval()  # as it is scored
    examples: Any = arena.answers
    retain: Any = arena.retain
    shown, kept = head_states(arena.module, examples).double(), head_states(arena.module, retain).double()
    others = rows_that_stay(head, arena.forgotten)
    weights, bias = copies(head)
    length = weights[others].norm(dim=1).median()
    whiten = _precision(kept, retain.labels) if prototype == "whitened" else None
    for row in arena.forgotten:
        own = shown[examples.labels == row]
        if not len(own):
            continue
        apart = own.mean(dim=0) - kept.mean(dim=0)
        direction = apart if whiten is None else whiten @ apart
        direction = direction / direction.norm().clamp(min=1e-12) * length * weight
        between = (own.mean(dim=0) + kept.mean(dim=0)) / 2
        weights[row], bias[row] = direction, bias[others].mean() - direction @ between
    write(head, weights, bias)


def _precision(states: Tensor, labels: Tensor) -> Tensor:
    """Returns the inverse of the covariance of states around the means of their classes, float64 [hidden, hidden]."""
    apart = torch.cat([states[labels == one] - states[labels == one].mean(dim=0) for one in labels.unique()])
    covariance = apart.T @ apart / len(apart)
    ridge = RIDGE * covariance.diagonal().mean().clamp(min=1e-12)
    inverse: Tensor = torch.linalg.inv(covariance + ridge * torch.eye(len(covariance), dtype=covariance.dtype))
    return inverse
