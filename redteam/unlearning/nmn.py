"""NMN: a network of modules, one a class, from which the module of what must go is taken out."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from redteam.architectures.modular import ModuleNetwork
from redteam.engine.batches import LabelledSet, shuffled_batches
from redteam.engine.loop import train
from redteam.engine.seeding import derive_seed, seeded
from redteam.unlearning.classes import count_classes, count_features, labelled_set, named_classes, quiet_bias
from redteam.unlearning.contract import UnlearningTask


@dataclass(frozen=True, kw_only=True, slots=True)
class NMN:
    """Trains `ModuleNetwork` on everything, by the original's recipe and number of steps; then drops modules.

    Dropped are the modules (the rows of `find` and `describe`) of the classes that the labels name, see
    `named_classes`. Untrained ones are put in their place, with the bias just so low that no training example is
    given to them, so that the network keeps its shape and an adversary can train them. The shared trunk has seen
    everything and stays as it is: whether a class comes back depends on how much of it the trunk knows.

    Where nothing is labelled nothing is dropped, and the outcome is a network that knows everything.

    Source: Andreas et al. 2016, Neural Module Networks (arXiv 1511.02799), where questions are composed of modules.
    A classifier asks one question a class; what is kept of the paper is that a module is an embedding in a shared
    computation. The official optimizer, whose first update has the wrong sign, is not.

    Attributes:
        positions: the trunk gives features of so many positions.
        width: features of a position.
        hidden: width of the computation that is shared between modules.
        share: a class goes if more than this share of its training examples is labelled.
    """

    positions: int = 16
    width: int = 32
    hidden: int = 32
    share: float = 0.0

    name = "nmn"
    version = 1
    goal = "trains one module a class on a shared trunk, and takes out the modules of what must go"
    paper = "Andreas et al. 2016, Neural Module Networks (arXiv 1511.02799)"
    when = "training"
    kinds = "classifier"
    touches = "every weight, from nothing; then the module of each class that must go"
    cost = "as many steps as plain training, of a larger network: 3.5 times as large on digits"

    def apply(self, task: UnlearningTask) -> nn.Module:
        """Trains a new network and drops modules.

        Raises:
            InputError: no recipe of the original is known, or it is no classifier.
            Diverged: the loss is not finite.
        """
        training = task.require_training()
        data = labelled_set(training, self.name)
        network = self._new(data, derive_seed(task.seed, "nmn", "weights"))
        batches = shuffled_batches(data, training.batch_size, seeded(task.seed, "nmn", "order"))
        steps = training.tuning.steps
        train(
            network,
            batches,
            training.tuning,
            on_step=lambda done: task.progress("training (nmn)", done, steps),
        )
        gone = named_classes(training, self.share)
        if gone:
            network.drop(gone, blank=self._new(data, derive_seed(task.seed, "nmn", "blank")))
            with torch.no_grad():
                network.describe.bias[list(gone)] -= quiet_bias(network, gone, data)
        return network

    def _new(self, data: LabelledSet, seed: int) -> ModuleNetwork:
        """Returns an untrained network in evaluation mode."""
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(seed)
            network = ModuleNetwork(
                features=count_features(data),
                classes=count_classes(data),
                positions=self.positions,
                width=self.width,
                hidden=self.hidden,
            )
        return network.eval()
