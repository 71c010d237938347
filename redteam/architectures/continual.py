"""A classifier for tasks that come one after another: a shared encoder, and a private encoder and a head per task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


class ContinualNetwork(nn.Module):
    """Adversarial Continual Learning: the head of task t reads [P_t(x); S(x)] and gives the logits of t's classes.

    The paper is told the task of a test input. Here it is not: the logits of all heads stand side by side in the
    order of the classes (the class-incremental reading), which is harder and is what an ordinary classifier does.

    Source: Ebrahimi et al. 2020, Adversarial Continual Learning (arXiv 2003.09553), section 3.
    """

    name = "acl"
    goal = "a shared encoder, and for every task a private encoder and a head; the logits of all heads side by side"
    paper = "Ebrahimi et al. 2020, Adversarial Continual Learning (arXiv 2003.09553)"

    def __init__(self, *, features: int, tasks: Sequence[int], width: int = 64) -> None:
        """Draws random weights, as torch does by default.

        Args:
            features: of an input, flattened.
            tasks: of each class the task that it belongs to, counted from 1.
            width: of the shared code and of each private one.

        Raises:
            ValueError: a number is not a positive integer, or a task has no class.
        """
        super().__init__()
        if not tasks or not all(type(n) is int and n > 0 for n in (features, width, *tasks)):
            raise ValueError(f"sizes and tasks must be positive integers, not {[features, width, *tasks][:8]}")
        if set(tasks) != set(range(1, len(set(tasks)) + 1)):
            raise ValueError(f"tasks must be numbered 1, 2, ... without a gap, not {sorted(set(tasks))[:8]}")
        self.features, self.tasks, self.width = features, tuple(tasks), width
        groups = self.groups
        members = [c for group in groups for c in group]
        self.place = sorted(range(len(members)), key=members.__getitem__)  # class -> column of the joined heads
        self.shared = _encoder(features, width)
        self.private = nn.ModuleList(_encoder(features, width) for _ in groups)
        self.heads = nn.ModuleList(nn.Linear(2 * width, len(group)) for group in groups)

    @property
    def groups(self) -> tuple[tuple[int, ...], ...]:
        """The classes of each task."""
        return tuple(tuple(c for c, t in enumerate(self.tasks) if t == task) for task in sorted(set(self.tasks)))

    @property
    def description(self) -> dict[str, Any]:
        """Name, sizes, and the task of each class."""
        return {"name": self.name, "features": self.features, "tasks": list(self.tasks), "width": self.width}

    def forward(self, inputs: Tensor) -> Tensor:
        """Maps inputs [samples, ...] to logits [samples, classes]."""
        flat = inputs.flatten(1)
        seen = self.shared(flat)
        joined = [head(torch.cat([own(flat), seen], dim=1)) for own, head in zip(self.private, self.heads, strict=True)]
        return torch.cat(joined, dim=1)[:, self.place]

    def encode(self, inputs: Tensor, task: int) -> tuple[Tensor, Tensor]:
        """Returns S(x) and P_t(x) of the task at this place, counted from 0; both [samples, width]."""
        flat = inputs.flatten(1)
        return self.shared(flat), self.private[task](flat)

    def drop(self, task: int, blank: ContinualNetwork) -> None:
        """Puts the private encoder and the head of an untrained network of the same sizes in the place of a task's."""
        self.private[task].load_state_dict(blank.private[task].state_dict())
        self.heads[task].load_state_dict(blank.heads[task].state_dict())


def _encoder(features: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(features, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
