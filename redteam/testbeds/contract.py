"""What a testbed is: a world whose facts are known, and a recipe that makes a model know them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from torch import nn

from redteam.capabilities.items import Capability
from redteam.unlearning.contract import Progress

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Testbed(Protocol):
    """A world. Its class attributes are what `redteam list testbeds` shows.

    Attributes:
        name: unique, lower case.
        version: raised with every change that could move a number.
        goal: one line.
        paper: what it is after.
    """

    name: str
    version: int
    goal: str
    paper: str

    def capability(self, seed: int) -> Capability:
        """Returns the facts of this world, split."""

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Returns the tokenizer of this world's language, the same for every seed."""

    def train_model(self, capability: Capability, *, with_forget: bool, seed: int, progress: Progress) -> nn.Module:
        """Trains a model from scratch on the world, with or without the forget facts."""
