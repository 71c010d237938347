"""What a probe is: it reads hidden states and says whether the capability is still in them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from redteam.capabilities.items import Item


@dataclass(frozen=True, kw_only=True, slots=True)
class Layers:
    """Hidden states of one split, and what they should reveal.

    Attributes:
        items: the items, in order.
        states: for each layer, the state that predicts the answer, float32 [items, hidden].
    """

    items: tuple[Item, ...]
    states: Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeReading:
    """What a probe found.

    Attributes:
        layer: the layer it read best, chosen on the select split.
        correct: 1 where the right choice was read on `certify`, else 0, in item order.
        control: the same for a probe trained on shuffled answers.
        by_layer: accuracy on the select split for each layer.
    """

    layer: str
    correct: tuple[float, ...]
    control: tuple[float, ...]
    by_layer: Mapping[str, float] = field(default_factory=dict)


class Probe(Protocol):
    """A probe. Its class attributes are what `redteam list probes` shows.

    Attributes:
        name: unique, lower case.
        version: raised with every change that could move a number.
        goal: one line.
        paper: where it was published.
    """

    name: str
    version: int
    goal: str
    paper: str

    def read(self, train: Layers, select: Layers, certify: Layers, seed: int) -> ProbeReading:
        """Learns on `train`, chooses on `select`, reports on `certify`."""
