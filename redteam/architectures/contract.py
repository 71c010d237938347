"""What an architecture is: a module that can be built again from a few numbers."""

from __future__ import annotations

from typing import Any, Protocol


class Architecture(Protocol):
    """A `torch.nn.Module` that takes inputs, float32 [samples, ...], and returns logits, float32 [samples, classes].

    Its constructor takes the entries of `description`, without the name, as keywords, raises `ValueError` for values
    that make no sense, and must cost no more than its description is long: it lists its layers one by one, so that
    no single number of a file that nobody vouches for says how many modules are built. Numbers are sizes: positive
    integers, or finite floats.

    Attributes:
        name: unique, lower case; a row of `redteam.registry.ARCHITECTURES`.
        goal: one line.
        paper: where it was published.
    """

    name: str
    goal: str
    paper: str

    @property
    def description(self) -> dict[str, Any]:
        """What `json` can write: the name, and what the constructor needs to build this module again."""
