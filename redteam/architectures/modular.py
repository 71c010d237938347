"""A classifier of modules: a shared trunk, and for every class one module that finds it and one that describes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


class Find(nn.Module):
    """Attention of every label over positions: a_c(p) = sigmoid(w . relu(V x_p + e_c)).

    V and w are shared between labels; what belongs to label c is its row e_c of `embedding`.

    Source: Andreas et al. 2016, Neural Module Networks (arXiv 1511.02799), `find` as the official code has it.
    """

    def __init__(self, *, width: int, hidden: int, labels: int) -> None:
        """Args: width: of a position's features; hidden: of V's output; labels: how many can be found."""
        super().__init__()
        self.project = nn.Linear(width, hidden)
        self.attend = nn.Linear(hidden, 1)
        self.embedding = nn.Parameter(torch.randn(labels, hidden))

    def forward(self, features: Tensor) -> Tensor:
        """Maps features [samples, positions, width] to attention [samples, positions, labels]."""
        seen = self.project(features)[:, :, None, :] + self.embedding
        return torch.sigmoid(self.attend(torch.relu(seen))).squeeze(-1)


class Describe(nn.Module):
    """One logit a class from what its attention rests on: l_c = v_c . mean_p(a_c(p) x_p) + b_c.

    Source: as `Find`; the mean over positions stands for the sum, so that the scale does not depend on their number.
    """

    def __init__(self, *, width: int, labels: int) -> None:
        """Args: width: of a position's features; labels: how many logits."""
        super().__init__()
        self.weight = nn.Parameter(torch.randn(labels, width) / width**0.5)
        self.bias = nn.Parameter(torch.zeros(labels))

    def forward(self, features: Tensor, attention: Tensor) -> Tensor:
        """Maps features [samples, positions, width], attention [samples, positions, labels] to [samples, labels]."""
        attended = torch.einsum("spw,spc->scw", features, attention) / features.shape[1]
        return (attended * self.weight).sum(dim=-1) + self.bias


class ModuleNetwork(nn.Module):
    """Neural Module Networks brought to classification: the question "is it c?" for every class c.

    Logit c is read from the shared trunk by the module of class c alone, find[c] then describe[c]. The trunk turns
    an input into the features of some positions.

    Source: as `Find`.
    """

    name = "nmn"
    goal = "a shared trunk, and for every class a module that finds it and one that describes it"
    paper = "Andreas et al. 2016, Neural Module Networks (arXiv 1511.02799)"

    def __init__(self, *, features: int, classes: int, positions: int = 16, width: int = 32, hidden: int = 32) -> None:
        """Draws random weights, as torch does by default; those of the labels are normal.

        Args:
            features: of an input, flattened.
            classes: how many.
            positions: that the trunk gives features of.
            width: features of a position.
            hidden: width of the computation that all of `find` share.

        Raises:
            ValueError: a number is not a positive integer.
        """
        super().__init__()
        given = [features, classes, positions, width, hidden]
        if not all(type(size) is int and size > 0 for size in given):
            raise ValueError(f"sizes must be positive integers, not {given}")
        self.sizes = {
            "features": features,
            "classes": classes,
            "positions": positions,
            "width": width,
            "hidden": hidden,
        }
        self.trunk = nn.Linear(features, positions * width)
        self.find = Find(width=width, hidden=hidden, labels=classes)
        self.describe = Describe(width=width, labels=classes)

    @property
    def description(self) -> dict[str, Any]:
        """Name and sizes."""
        return {"name": self.name, **self.sizes}

    def forward(self, inputs: Tensor) -> Tensor:
        """Maps inputs [samples, ...] to logits [samples, classes]."""
        seen = torch.relu(self.trunk(inputs.flatten(1)))
        features = seen.unflatten(1, (self.sizes["positions"], self.sizes["width"]))
        logits: Tensor = self.describe(features, self.find(features))
        return logits

    @torch.no_grad()
    def drop(self, classes: Sequence[int], blank: ModuleNetwork) -> None:
        """Puts the modules of an untrained network of the same sizes in the place of those of some classes."""
        rows = list(classes)
        for mine, untrained in (
            (self.find.embedding, blank.find.embedding),
            (self.describe.weight, blank.describe.weight),
            (self.describe.bias, blank.describe.bias),
        ):
            mine[rows] = untrained[rows]
