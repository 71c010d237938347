"""What models score as they are, before any attack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from redteam.record import Interval


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelScores:
    """What a model scores, each with an interval over the facts that it was asked about.

    Attributes:
        role: of the model.
        name: of its file or directory.
        sha256: of its weights.
        score: on held-out items of what was removed.
        also: by further scorers and in further wordings, by name.
        utility: on what must stay.
    """

    role: str
    name: str
    sha256: str
    score: Interval
    also: Mapping[str, Interval]
    utility: Interval


@dataclass(frozen=True, kw_only=True, slots=True)
class CapabilityScores:
    """What models score on one capability.

    Attributes:
        name: of the capability.
        scorer: that says so.
        chance: what a model that knows nothing scores.
        items: held-out items that were asked.
        facts: that these are about.
        models: their scores.
    """

    name: str
    scorer: str
    chance: float
    items: int
    facts: int
    models: Sequence[ModelScores]
