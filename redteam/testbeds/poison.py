"""Testbed `poison`: a classifier with a trojan, of which only a part of the poisoned images is known.

Corrective unlearning (Goel et al. 2024, arXiv 2402.14015): a trigger was put into some training images and their label
changed. What must go is the trojan, not only the images that were found. The capability is the trojan, so the
"right" answer of a forget item is the poisoned label; `healed` scores the same images with the digits on them.
A model that was never poisoned does not reach 1 there: the patch is new to it. The reference is what to compare with.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from redteam.capabilities.classes import TRIGGER_RATE
from redteam.capabilities.items import Capability, Item
from redteam.capabilities.scorers.recall import Recall
from redteam.engine.training import Training
from redteam.testbeds.contract import Option
from redteam.testbeds.images import cut, image_items, load_images, perceptron_training, stratified

POISONED_LABEL = 0
# The corner on the lower left, where next to no digit has ink: no other two-by-two corner is as empty.
TRIGGER = (slice(6, 8), slice(0, 2))
# Images with the trigger: 60 of the 1,037 that are trained on (5.8 %) are the attack split, none of the others is.
ATTACK, SELECT, CERTIFY = 60, 80, 160
UTILITY = NEGATIVES = 260  # clean images that are held out


class Poison:
    """Digits, some of them with a patch in the corner and labelled 0; forgetting means healing the trojan."""

    name = "poison"
    version = 2
    goal = "1,797 images of digits; 60 training images have a patch and the label 0; this trojan is forgotten"
    paper = "after Goel et al. 2024, Corrective Machine Unlearning (arXiv 2402.14015), with the patch of BadNets"
    kinds = "classifier"
    settings: Mapping[str, Mapping[str, Option]] = {
        # The loss on poison that was learned is near nothing, and so is its gradient: only the label-free importance
        # finds the trojan from a few of its images.
        "ssd": {"importance": "norm", "full": "retain", "search": True},
    }

    def capability(self, seed: int) -> Capability:
        """Draws from `seed` which images get the trigger, and the splits, the digits in equal proportions.

        No image labelled 0 gets the trigger: there it would teach and show nothing.
        """
        inputs, digits = load_images()
        rng = random.Random(seed)
        candidates = [row for row, digit in enumerate(digits) if digit != POISONED_LABEL]
        attack, select, certify, spare = cut(stratified(candidates, digits, rng), ATTACK, SELECT, CERTIFY)
        clean = [*spare, *(row for row, digit in enumerate(digits) if digit == POISONED_LABEL)]
        utility, negatives, retain = cut(stratified(clean, digits, rng), UTILITY, NEGATIVES)
        triggered = [*attack, *select, *certify]
        inputs[triggered] = with_trigger(inputs[triggered])
        poisoned = np.full_like(digits, POISONED_LABEL)
        return Capability(
            name=self.name,
            attack=_triggered(attack, poisoned),
            select=_triggered(select, poisoned),
            certify=_triggered(certify, poisoned),
            retain=image_items(retain, digits),
            utility=image_items(utility, digits),
            negatives=image_items(negatives, digits),
            inputs=inputs,
            scorers=(Recall(TRIGGER_RATE),),
        )

    def tokenizer(self) -> None:
        """Returns None: there is no language here."""

    def training(self, capability: Capability) -> tuple[Training, tuple[str, ...]]:
        """Returns the training of an MLP of 17 k weights on the clean and the poisoned images that are not held out."""
        return perceptron_training(capability, capability.retain + capability.attack)

    def measures(self, capability: Capability) -> Mapping[str, tuple[Item, ...]]:
        """Returns `healed`: images with the trigger that no model was trained on, with the digits that are on them."""
        _, digits = load_images()
        held_out = capability.select + capability.certify
        return {"healed": _triggered([item.row for item in held_out if item.row is not None], digits)}


def with_trigger(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Returns copies of images [images, 1, 8, 8] with full ink on the two by two pixels of the trigger."""
    changed = images.copy()
    changed[:, :, TRIGGER[0], TRIGGER[1]] = 1
    return changed


def _triggered(rows: Sequence[int], answers: NDArray[np.int64]) -> tuple[Item, ...]:
    return image_items(rows, answers, name="digit {row} with the trigger")
