"""Pruning: the weights that hide a capability are taken out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from redteam.attacks.contract import Access, Arena, Params, Suggest
from redteam.attacks.tuning import FULL, at_width, edit_then_tune, recipe, suggest_data, suggest_tuning
from redteam.engine.batches import Examples, ordered_batches
from redteam.engine.cost import Spent
from redteam.target import TargetInfo

READ = 256  # examples of each set that importance is read from


class Prune:
    """Sets weights to zero: the smallest ones, or those that matter for forget items and not for retain items.

    "magnitude" zeroes the share of each matrix with the smallest |w|. "difference" zeroes those weights that are in
    the top share by importance on forget items and not in the top retain share on retain items, with importance
    |w * g|, g the gradient of the mean loss on the answers. "signed" takes w * g on forget items, where it is above 0:
    without w the loss changes by -w * g to first order, and an adversary knows the right answers, so that only
    weights without which these get likelier are worth losing. |w * g| is as large where a weight carries an answer.

    Source: Wei et al. 2024, Assessing the Brittleness of Safety Alignment via Pruning (arXiv 2402.05162), for the set
    difference with a share of its own for each set; their code scores |w| times the sum of |g| over batches, ours is
    SNIP's |w * g| of the mean loss (Lee et al. 2019). As an attack on unlearning, Łucki et al. 2024 (arXiv 2409.18025).
    The sign is ours.
    """

    name = "prune"
    version = 4
    goal = "zeroes small weights, or those important for forget and not for retain items"
    paper = "Wei et al. 2024 (arXiv 2402.05162); Łucki et al. 2024 (arXiv 2409.18025)"
    access = Access.WEIGHTS
    kinds = "language, classifier"

    def space(self, suggest: Suggest, target: TargetInfo, samples: int) -> Params:
        """How weights are chosen, the shares, and whether fine-tuning follows, with its tuning and data."""
        params: dict[str, Any] = {
            "by": suggest.suggest_categorical("by", ["signed", "difference", "magnitude"]),
            "share": suggest.suggest_float("share", 0.001, 0.5, log=True),
            "fine_tuning": suggest.suggest_categorical("fine_tuning", [False, True]),
        }
        if params["by"] != "magnitude":
            params["retain_share"] = suggest.suggest_float("retain_share", 0.001, 0.9, log=True)
        if params["fine_tuning"]:
            params |= suggest_tuning(suggest, FULL) | suggest_data(suggest, samples)
        return params

    def recipes(self, target: TargetInfo, samples: int) -> Sequence[Params]:
        """The signed difference that spares most, the plain one, one before fine-tuning; then other shares."""
        alone: dict[str, Any] = {"fine_tuning": False}
        (after,) = at_width([recipe("adamw", 1e-3, samples=samples, loss="answer")], target, FULL)
        return [
            {"by": "signed", "share": 0.05, "retain_share": 0.3, **alone},
            {"by": "difference", "share": 0.05, "retain_share": 0.05, **alone},
            {"by": "difference", "share": 0.02, "retain_share": 0.02, "fine_tuning": True, **after},
            {"by": "signed", "share": 0.02, "retain_share": 0.02, **alone},
            {"by": "difference", "share": 0.01, "retain_share": 0.01, **alone},
            {"by": "magnitude", "share": 0.3, **alone},
        ]

    def run(self, arena: Arena, params: Params) -> Iterator[Spent]:
        """Prunes, and trains all weights where fine-tuning follows."""
        if params["by"] == "magnitude":
            scores = {name: weights.detach().abs().neg() for name, weights in _matrices(arena.module)}
            chosen = {name: _top(score, params["share"]) for name, score in scores.items()}
        else:
            chosen = difference(arena, params["share"], params["retain_share"], signed=params["by"] == "signed")
        with torch.no_grad():
            for name, weights in _matrices(arena.module):
                weights.masked_fill_(chosen[name], 0)
        yield from edit_then_tune(arena, params)


def difference(arena: Arena, share: float, retain_share: float, *, signed: bool) -> dict[str, Tensor]:
    """Returns which weights of every matrix forget items turn on and retain items do not; bool, of its shape.

    Args:
        arena: with the items.
        share: of a matrix, those with the highest scores on forget items.
        retain_share: of a matrix, those with the highest importance on retain items, which are spared.
        signed: whether the scores on forget items are w * g, as far as they are above 0, or |w * g|.
    """
    forget = relief(arena.module, arena.answers) if signed else importance(arena.module, arena.answers)
    retain = importance(arena.module, arena.some_retain(READ))
    return {
        name: _top(scores, share) & (scores > 0 if signed else True) & ~_top(retain[name], retain_share)
        for name, scores in forget.items()
    }


def importance(module: nn.Module, data: Examples) -> dict[str, Tensor]:
    """Returns |w * g| of every matrix, g the gradient of the mean loss on the first examples.

    Source: Lee et al. 2019, SNIP (arXiv 1810.02340), equation 4 without its normalisation.
    """
    return {name: scores.abs() for name, scores in relief(module, data).items()}


def relief(module: nn.Module, data: Examples) -> dict[str, Tensor]:
    """Returns w * g of every matrix: by how much the loss falls without each weight, to first order.

    g is the gradient of the mean loss on the first examples.
    """
    was = module.training
    module.eval()
    module.zero_grad(set_to_none=True)
    for batch in ordered_batches(data.take(slice(0, READ)), 64):
        batch.loss(module).backward()
    found = {
        name: (weights * weights.grad).detach() if weights.grad is not None else torch.zeros_like(weights)
        for name, weights in _matrices(module)
    }
    module.zero_grad(set_to_none=True)
    module.train(was)
    return found


def _top(scores: Tensor, share: float) -> Tensor:
    """Returns where the highest scores of a matrix are, a share of it, bool of its shape; at least one."""
    count = max(1, round(share * scores.numel()))
    chosen = torch.zeros(scores.numel(), dtype=torch.bool, device=scores.device)
    chosen[scores.flatten().topk(count).indices] = True
    return chosen.view_as(scores)


def _matrices(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, parameter) for name, parameter in module.named_parameters() if parameter.ndim >= 2)
