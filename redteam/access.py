"""What an adversary has. Imports nothing, so that the command line can name it."""

from __future__ import annotations

from enum import StrEnum


class Access(StrEnum):
    """What an adversary must be able to touch, from the most to the least: who has one has all that come after it."""

    WEIGHTS = "weights"
    ACTIVATIONS = "activations"
    EMBEDDINGS = "embeddings"
    TEXT = "text"

    def grants(self, needed: Access) -> bool:
        """Returns whether an adversary with this access can do what needs the other."""
        order = list(Access)
        return order.index(self) <= order.index(needed)
