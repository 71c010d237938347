"""The multilayer perceptron."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from torch import Tensor, nn


class MLP(nn.Module):
    """Linear layers with ReLU between them; inputs are flattened.

    Layers are named `layers.linear1`, `layers.linear2`, ...; the last of them gives the logits.
    """

    name = "mlp"
    goal = "linear layers with ReLU between them"
    paper = "Rumelhart et al. 1986, Learning representations by back-propagating errors"

    def __init__(self, sizes: Sequence[int]) -> None:
        """Draws random weights, as torch does by default.

        Args:
            sizes: of the flattened input, of each hidden layer, and the number of classes.

        Raises:
            ValueError: there are fewer than two sizes, or one is not a positive integer.
        """
        super().__init__()
        if len(sizes) < 2 or not all(type(size) is int and size > 0 for size in sizes):
            raise ValueError(f"sizes must be two or more positive integers, not {list(sizes)[:8]}")
        self.sizes = tuple(sizes)
        parts: OrderedDict[str, nn.Module] = OrderedDict()
        for number, (inputs, outputs) in enumerate(pairwise(sizes), 1):
            parts[f"linear{number}"] = nn.Linear(inputs, outputs)
            if number < len(sizes) - 1:
                parts[f"relu{number}"] = nn.ReLU()
        self.layers = nn.Sequential(parts)

    @property
    def description(self) -> dict[str, Any]:
        """Name and sizes."""
        return {"name": self.name, "sizes": list(self.sizes)}

    def forward(self, inputs: Tensor) -> Tensor:
        """Returns logits, float32 [samples, classes]."""
        logits: Tensor = self.layers(inputs.flatten(1))
        return logits
