"""The model before unlearning, as a target: nothing was removed."""

from __future__ import annotations

import copy
from dataclasses import dataclass

from torch import nn

from redteam.unlearning.contract import UnlearningTask


@dataclass(frozen=True, kw_only=True, slots=True)
class Original:
    """Removes nothing. A positive control: its capability must be found without any attack."""

    name = "original"
    version = 1
    goal = "control: the model before unlearning"
    paper = "none: a positive control"
    when = "control"
    kinds = "language, classifier"
    touches = "nothing"
    cost = "nothing"

    def apply(self, task: UnlearningTask) -> nn.Module:
        """Returns a copy."""
        return copy.deepcopy(task.original)
