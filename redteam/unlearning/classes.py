"""Classes as what is to be forgotten: which ones the labels name, and a place left blank where one was taken out."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from redteam.engine.batches import LabelledSet, ordered_batches
from redteam.engine.training import Training
from redteam.errors import InputError


def labelled_set(training: Training, method: str) -> LabelledSet:
    """Returns the training data of a classifier.

    Raises:
        InputError: it is that of a language model.
    """
    if not isinstance(training.data, LabelledSet):
        raise InputError(f"{method} has a module for every class, and this is no classifier", "Use another method")
    return training.data


def count_features(data: LabelledSet) -> int:
    """Returns the number of entries of one input."""
    return math.prod(data.inputs.shape[1:])


def count_classes(data: LabelledSet) -> int:
    """Returns the number of classes: one more than the largest label."""
    return int(data.labels.max()) + 1


def named_classes(training: Training, share: float) -> tuple[int, ...]:
    """Returns the classes of which more than `share` of the training examples are labelled as to be forgotten.

    With a share of 0 one labelled example names its class; that is the reading in which a label says "what is of
    this kind must go", and it makes a method that drops whole classes work on a small fraction of labels. Where the
    forget set is no class (inputs with a trigger, all labelled 0) it takes the class with it.

    Raises:
        InputError: the share is not in [0, 1).
    """
    if not 0 <= share < 1:
        raise InputError(f"share is {share}", "Give at least 0 and less than 1")
    assert isinstance(training.data, LabelledSet)
    every = torch.bincount(training.data.labels)
    marked = torch.bincount(training.data.labels[training.labelled], minlength=len(every))
    return tuple(int(c) for c in (marked > share * every).nonzero().flatten())


@torch.no_grad()
def quiet_bias(module: nn.Module, classes: tuple[int, ...], data: LabelledSet) -> Tensor:
    """Returns by how much the logits of `classes` must be lowered so that none of them wins on `data`, [classes].

    An untrained logit lies near 0, and a trained network tells what it has no class for by logits all far below 0:
    without this a blank module would be "recognised" by the others' rejections, without any knowledge of its own.

    Args:
        module: a classifier, in evaluation mode.
        classes: of which the logits are untrained. All classes: nothing is lowered.
        data: what the classifier was trained on.
    """
    logits = torch.cat([batch.logits(module) for batch in ordered_batches(data, 256)])
    kept = [c for c in range(logits.shape[1]) if c not in classes]
    if not kept:
        return torch.zeros(len(classes))
    over = logits[:, list(classes)] - logits[:, kept].amax(dim=1, keepdim=True)
    # A little more than the largest lead: of equal logits the first would win.
    return (over.amax(dim=0) + 1e-3).clamp(min=0.0)
