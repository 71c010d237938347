"""Testbed `digits`: a classifier of handwritten digits that must forget one of them.

Unlike an independent fact, a class can be learned anew from a few images. References say how far those few images go by
themselves.
"""

from __future__ import annotations

import random
from collections.abc import Mapping

from redteam.capabilities.items import Capability, Item
from redteam.capabilities.scorers.recall import Recall
from redteam.engine.training import Training
from redteam.testbeds.contract import Option
from redteam.testbeds.images import cut, image_items, load_images, perceptron_training, stratified

# The class with the most images, 183, so that most can be certified. It is closely tied to others: for six threes in
# ten the nearest image of another digit is a nine, so that forgetting them is not a matter of separate features.
FORGOTTEN = 3
ATTACK, SELECT, UNSEEN = 32, 40, 16  # images of the forgotten digit; the others, 95, are certified
UTILITY = NEGATIVES = 300  # images of other digits that are held out: as few as a rate of 1 % takes


class Digits:
    """Images of 8 x 8 pixels; all of one digit is forgotten, the nine others stay."""

    name = "digits"
    version = 2
    goal = "1,797 images of handwritten digits, a multilayer perceptron; the digit 3 is forgotten; chance is 1 %"
    paper = "class unlearning as in Golatkar et al. 2020 (arXiv 1911.04933) and Foster et al. 2024 (arXiv 2308.07707)"
    kinds = "classifier"
    settings: Mapping[str, Mapping[str, Option]] = {
        # With the forget set itself in the comparison no weight could matter ten times as much to it.
        "ssd": {"full": "retain"},
    }

    def capability(self, seed: int) -> Capability:
        """Draws the splits from `seed`, the digits that stay in equal proportions."""
        inputs, digits = load_images()
        rng = random.Random(seed)
        forgotten = [row for row, digit in enumerate(digits) if digit == FORGOTTEN]
        others = [row for row, digit in enumerate(digits) if digit != FORGOTTEN]
        attack, select, _, certify = cut(stratified(forgotten, digits, rng), ATTACK, SELECT, UNSEEN)
        utility, negatives, retain = cut(stratified(others, digits, rng), UTILITY, NEGATIVES)
        return Capability(
            name=self.name,
            attack=image_items(attack, digits),
            select=image_items(select, digits),
            certify=image_items(certify, digits),
            retain=image_items(retain, digits),
            utility=image_items(utility, digits),
            negatives=image_items(negatives, digits),
            inputs=inputs,
            scorers=(Recall(),),
        )

    def tokenizer(self) -> None:
        """Returns None: there is no language here."""

    def training(self, capability: Capability) -> tuple[Training, tuple[str, ...]]:
        """Returns the training of an MLP of 17 k weights on all images but those held out."""
        return perceptron_training(capability, capability.retain + capability.forget)

    def measures(self, capability: Capability) -> Mapping[str, tuple[Item, ...]]:
        """Returns `unseen`: images of the forgotten digit that no model was trained on."""
        _, digits = load_images()
        shown = {item.row for item in capability.forget}
        rows = [row for row, digit in enumerate(digits) if digit == FORGOTTEN and row not in shown]
        return {"unseen": image_items(rows, digits)}
