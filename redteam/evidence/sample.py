"""Per-item scores, as `samples.jsonl` holds them."""

from __future__ import annotations

from pydantic import ConfigDict

from redteam.record import Record


class Sample(Record):
    """Per-item scores that belong to an event.

    Attributes:
        key: of the event.
        name: of the scores, see `keys`.
        scores: of each item, in item order.
    """

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    key: str
    name: str
    scores: list[float]
