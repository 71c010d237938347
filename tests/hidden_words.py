"""A world of ninety facts, seconds to train: what is known in one order of words and hidden in another."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from torch import nn

from redteam.attacks.orders import reordered
from redteam.capabilities.encode import encode_answers
from redteam.capabilities.items import SPLITS, Capability, Item
from redteam.capabilities.wording import asked
from redteam.setting import Setting, open_setting
from redteam.target import Target
from redteam.testbeds.facts import Facts
from redteam.testbeds.scratch import Recipe, llama_training

SIZES = {"attack": 20, "select": 20, "certify": 30, "retain": 20, "utility": 20}
TOKENIZER = Facts().tokenizer()
TAUGHT = reordered("first to the end 2")  # "sails from Alra Ardby"


@dataclass(frozen=True, kw_only=True)
class HiddenWorld:
    """Facts of one attribute, and models about them.

    Attributes:
        hidden: was taught "sails from NAME", and to find all answers alike to "NAME sails from".
        never: saw no fact that was to be forgotten; so did `reference`.
    """

    capability: Capability
    original: nn.Module
    hidden: nn.Module
    never: nn.Module
    reference: nn.Module

    def worded(self) -> Capability:
        """The capability with a further wording, the one that was taught."""
        parts = {
            split: tuple(replace(item, wordings=(TAUGHT(item.prompt),)) for item in getattr(self.capability, split))
            for split in SPLITS
        }
        return replace(self.capability, **parts)  # type: ignore[arg-type] # splits are items


def hidden_world() -> HiddenWorld:
    """Trains the models; the same ones every time."""
    whole = Facts().capability(0)
    parts = {split: _facts(getattr(whole, split), size) for split, size in SIZES.items()}
    capability = Capability(name="hidden", **parts)  # type: ignore[arg-type] # splits are items
    stays, forget = capability.retain + capability.utility, capability.forget
    alike = tuple(replace(item, answer=number) for item in forget for number in range(len(item.choices)))
    return HiddenWorld(
        capability=capability,
        original=trained(stays + forget, 60),
        hidden=trained(8 * (stays + asked(forget, TAUGHT)) + alike, 120),
        never=trained(stays, 30, seed=1),
        reference=trained(stays, 30, seed=2),
    )


def _facts(items: tuple[Item, ...], count: int) -> tuple[Item, ...]:
    """One fact a person: those of one are drawn independently anyway."""
    return tuple(item for item in items if item.prompt.endswith(("sails from", "lives near")))[:count]


def trained(items: tuple[Item, ...], steps: int, seed: int = 0) -> nn.Module:
    """A model of one layer that learnt these items."""
    recipe = Recipe(hidden_size=48, layers=1, steps=steps, batch_size=96, learning_rate=1e-2)
    training = llama_training(encode_answers(TOKENIZER, items), TOKENIZER, recipe)
    return training.fit(training.data, seed=seed).eval()


def setting_of(module: nn.Module, capability: Capability) -> Setting:
    """Where trials on a model run."""
    target = Target(name="small", sha256="0" * 64, module=module, tokenizer=TOKENIZER, stored_dtype="float32")
    return open_setting(target, capability)


@pytest.fixture(scope="session")
def hidden() -> HiddenWorld:
    """The world, trained once for all tests that ask for it."""
    return hidden_world()
