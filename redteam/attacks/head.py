"""Mends the output layer of a classifier: what hides in it, and what reads the class from states that still hold it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from redteam.attacks.contract import Access, Arena, Params, Suggest
from redteam.engine.batches import LabelledSet, join
from redteam.engine.cost import Spent
from redteam.engine.heads import NoHead, head_states, output_head
from redteam.target import TargetInfo

ROWS = ("released", "reset", "others")
ABSURD = 10.0  # times the median of other rows from which on a row or a bias is no work of training


class Head:
    """Gives forgotten classes a row and a bias of a usual size, and fits the other rows anew where that is asked for.

    A bias of -1e9 leaves nothing of a class in float32, whatever steps follow. "reset" keeps the direction of a row,
    and gives it the median length of the others and their mean bias; where no class was forgotten, but samples, all
    rows get one length and no bias. "others" puts there what speaks against all other
    classes, the mean of their rows with a minus: what no other class claims. Fitting anew is a logistic regression on
    the states that the head reads, of what is at hand and of retain items; a class of which nothing is at hand keeps
    the row that it was given.

    Source: features stay where only the head is misaligned (arXiv 2604.08271); what no class claims: Liu et al. 2020,
    Energy-based Out-of-distribution Detection (arXiv 2010.03759).
    """

    name = "head"
    version = 2
    goal = "resets rows and biases of the output layer, and fits it anew"
    paper = "arXiv 2604.08271, on features that stay under a misaligned head; Liu et al. 2020 (arXiv 2010.03759)"
    access = Access.WEIGHTS
    kinds = "classifier"

    def unfit(self, module: nn.Module) -> str | None:
        """Returns why this cannot work on a module: its output layer is not linear."""
        return no_head(module)

    def space(self, suggest: Suggest, target: TargetInfo, samples: int) -> Params:
        """What becomes of the rows of forgotten classes, and how the head is fitted."""
        return {
            "row": suggest.suggest_categorical("row", list(ROWS)),
            "fit": suggest.suggest_categorical("fit", [False, True]),
            "strength": suggest.suggest_float("strength", 1e-3, 1e2, log=True),
        }

    def recipes(self, target: TargetInfo, samples: int) -> Sequence[Params]:
        """Reset alone, fitted anew with either row, and against all others."""
        return [
            {"row": "reset", "fit": False, "strength": 1.0},
            {"row": "reset", "fit": True, "strength": 1.0},
            {"row": "others", "fit": True, "strength": 0.1},
            {"row": "others", "fit": False, "strength": 1.0},
        ]

    def run(self, arena: Arena, params: Params) -> Iterator[Spent]:
        """Changes the head in one step."""
        head = output_head(arena.module)
        with torch.no_grad():
            if params["row"] != "released":
                put_rows(head, arena.forgotten, against_others=params["row"] == "others")
            if params["fit"]:
                fit_head(arena, head, params["strength"])
        yield arena.ledger.charge_edit()


def no_head(module: nn.Module) -> str | None:
    """Returns why the head of a module cannot be changed; None if it can."""
    try:
        output_head(module)
    except NoHead as error:
        return str(error)
    return None


@torch.no_grad()
def put_rows(head: nn.Linear, forgotten: Sequence[int], *, against_others: bool) -> None:
    """Gives the rows of forgotten classes the median length of the others and their mean bias, in place.

    Args:
        head: the output layer.
        forgotten: its rows; where there are none all rows get the median length, their own direction, and no bias.
        against_others: whether a row becomes the mean of the others with a minus; else it keeps its direction.
    """
    others = rows_that_stay(head, forgotten)
    weight, bias = copies(head)
    kept = weight[others]
    length = kept.norm(dim=1).median()
    for row in forgotten or others:
        direction = -kept.mean(dim=0) if against_others and forgotten else finite(weight[row])
        weight[row] = direction / direction.norm().clamp(min=1e-12) * length
        bias[row] = bias[others].mean() if forgotten else 0.0
    write(head, weight, bias)


def rows_that_stay(head: nn.Linear, forgotten: Sequence[int]) -> list[int]:
    """Returns the rows of classes that stay; where none does, of all."""
    rows = list(range(head.out_features))
    return [row for row in rows if row not in forgotten] or rows


def copies(head: nn.Linear) -> tuple[Tensor, Tensor]:
    """Returns copies of weight and bias in the processor's memory, float64; without a bias zeros."""
    weight = head.weight.detach().cpu().double().clone()
    bias = torch.zeros(len(weight)).double() if head.bias is None else head.bias.detach().cpu().double().clone()
    return weight, bias


@torch.no_grad()
def write(head: nn.Linear, weight: Tensor, bias: Tensor) -> None:
    """Puts weight and bias into the head, wherever it is; one without a bias stays so."""
    head.weight.copy_(weight.to(head.weight.dtype))
    if head.bias is not None:
        head.bias.copy_(bias.to(head.bias.dtype))


def finite(row: Tensor) -> Tensor:
    """Returns a row whose squares do not overflow: of a direction only."""
    return row / row.abs().max().clamp(min=1e-30)


def fit_head(arena: Arena, head: nn.Linear, strength: float) -> None:
    """Fits the rows of all classes that are at hand by logistic regression, in place; others stay.

    Args:
        arena: has the examples.
        head: the output layer.
        strength: inverse of the penalty, of states that are standardised.
    """
    from sklearn.linear_model import LogisticRegression

    states, labels = states_at_hand(arena)
    mean, spread = states.mean(dim=0), states.std(dim=0).clamp(min=1e-6)
    fitted = LogisticRegression(C=strength, class_weight="balanced", max_iter=500)
    fitted.fit(((states - mean) / spread).numpy(), labels.numpy())
    weight = torch.from_numpy(fitted.coef_) / spread.double()
    bias = torch.from_numpy(fitted.intercept_) - weight @ mean.double()
    if len(fitted.classes_) == 2:  # one row, of the second against the first
        weight, bias = torch.cat([-weight / 2, weight / 2]), torch.cat([-bias / 2, bias / 2])
    rows, (whole, biases) = torch.from_numpy(fitted.classes_), copies(head)
    whole[rows], biases[rows] = weight, bias
    write(head, whole, biases)


def states_at_hand(arena: Arena) -> tuple[Tensor, Tensor]:
    """Returns the states that the head reads of all examples that an adversary has, [examples, hidden], and classes."""
    data: Any = arena.retain if arena.answers is arena.retain else join(arena.answers, arena.retain)
    assert isinstance(data, LabelledSet)
    arena.module.eval()  # as it is scored
    return head_states(arena.module, data).float(), data.labels
