"""What a testbed is: a world whose facts are known, and a recipe that makes a model know them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

from redteam.capabilities.items import Capability, Item
from redteam.engine.training import Training

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Option = float | int | str | bool


class Testbed(Protocol):
    """A world. Its class attributes are what `redteam list testbeds` shows.

    Attributes:
        name: unique, lower case.
        version: raised with every change that could move a number.
        goal: one line.
        paper: what it is after.
        kinds: what its models are: "language" or "classifier".
        settings: method -> options that were found to work in this world; what a user gives goes before them.
    """

    name: str
    version: int
    goal: str
    paper: str
    kinds: str
    settings: Mapping[str, Mapping[str, Option]]

    def capability(self, seed: int) -> Capability:
        """Returns the facts of this world, split."""

    def tokenizer(self) -> PreTrainedTokenizerBase | None:
        """Returns the tokenizer of this world's language, the same for every seed; None for a world of images."""

    def training(self, capability: Capability) -> tuple[Training, tuple[str, ...]]:
        """Returns how a model of this world is trained, and the group that each example of its data speaks of.

        No example is labelled yet.
        """

    def measures(self, capability: Capability) -> Mapping[str, tuple[Item, ...]]:
        """Returns further items whose mean score says something about a target of this world, by name."""
