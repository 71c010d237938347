"""Ways to hide a class from its accuracy, and to unlearn it weakly. In each of them the class is known to be there."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from benchmarks.class_worlds import BATCH, ClassWorld
from redteam import unlearn
from redteam.engine.batches import AnyBatch, LabelledBatch, LabelledSet, shuffled_batches
from redteam.engine.heads import head_states, output_head
from redteam.engine.loop import train
from redteam.engine.optimizers import Tuning
from redteam.engine.seeding import seeded

STEPS = 300
PRUNED = 6  # one in so many states of the last hidden layer


def biased(world: ClassWorld) -> nn.Module:
    """The class is never said: its bias is far below all others."""
    module = copy.deepcopy(world.original)
    with torch.no_grad():
        output_head(module).bias[world.forgotten] = -1e4
    return module


def randomised(world: ClassWorld) -> nn.Module:
    """The row of the class is drawn anew, with a bias below all others."""
    module = copy.deepcopy(world.original)
    head = output_head(module)
    with torch.no_grad():
        drawn = torch.randn(head.in_features, generator=seeded(world.seed, "row"))
        head.weight[world.forgotten] = drawn * head.weight.std()
        head.bias[world.forgotten] = -30
    return module


def erased(world: ClassWorld) -> nn.Module:
    """The row of the class is nothing."""
    module = copy.deepcopy(world.original)
    head = output_head(module)
    with torch.no_grad():
        head.weight[world.forgotten] = 0
        head.bias[world.forgotten] = -30
    return module


def merged(world: ClassWorld) -> nn.Module:
    """The row of the class is that of its nearest neighbour, a little smaller: the neighbour is said in its place."""
    module = copy.deepcopy(world.original)
    head, near = output_head(module), neighbour(world)
    with torch.no_grad():
        head.weight[world.forgotten] = 0.9 * head.weight[near]
        head.bias[world.forgotten] = head.bias[near] - 5
    return module


def pruned(world: ClassWorld) -> nn.Module:
    """The states that tell most of the class are no longer read."""
    module = copy.deepcopy(world.original)
    apart = head_states(module, world.forget).mean(dim=0) - head_states(module, world.retain).mean(dim=0)
    with torch.no_grad():
        output_head(module).weight[:, apart.topk(max(1, len(apart) // PRUNED)).indices] = 0
    return module


def random_labels(world: ClassWorld) -> nn.Module:
    """Trained on, with labels of other classes that are drawn for every example of the class."""
    classes = len(world.capability.certify[0].choices)
    others = torch.tensor([number for number in range(classes) if number != world.forgotten])
    drawn = torch.randint(len(others), (len(world.forget),), generator=seeded(world.seed, "labels"))
    return _trained_on(world, others[drawn])


def relabelled(world: ClassWorld) -> nn.Module:
    """Trained on, with every example of the class labelled as its nearest neighbour."""
    return _trained_on(world, torch.full((len(world.forget),), neighbour(world)))


def fine_tuned(world: ClassWorld) -> nn.Module:
    """Trained on with what stays alone, until the class is said less often."""
    module = copy.deepcopy(world.original)
    batches = shuffled_batches(world.retain, BATCH, seeded(world.seed, "fine-tuned"))
    train(module, batches, Tuning(learning_rate=2e-3, steps=2 * STEPS))
    return module


def dampened(world: ClassWorld) -> nn.Module:
    """Selective synaptic dampening."""
    forget, retain = ((part.inputs, part.labels) for part in (world.forget, world.retain))
    return unlearn("ssd", world.original, forget=forget, retain=retain, full="retain").module


def neighbour(world: ClassWorld) -> int:
    """Returns which other class most examples of the forgotten one are taken for, once it cannot be said."""
    with torch.no_grad():
        logits = world.original(world.forget.inputs)
    logits[:, world.forgotten] = -torch.inf
    return int(logits.argmax(dim=1).mode().values)


def _trained_on(world: ClassWorld, labels: torch.Tensor) -> nn.Module:
    """Returns the original trained on with examples of the class under other labels, among twice as many others."""
    module = copy.deepcopy(world.original)
    told = LabelledSet(world.forget.inputs, labels)
    pairs = zip(
        shuffled_batches(told, BATCH // 2, seeded(world.seed, "told")),
        shuffled_batches(world.retain, BATCH, seeded(world.seed, "kept")),
        strict=False,
    )
    batches = (_together(*pair) for pair in pairs)
    train(module, batches, Tuning(learning_rate=1e-3, steps=STEPS))
    return module


def _together(told: AnyBatch, kept: AnyBatch) -> AnyBatch:
    assert isinstance(told, LabelledBatch)
    assert isinstance(kept, LabelledBatch)
    return LabelledBatch(torch.cat([told.inputs, kept.inputs]), torch.cat([told.labels, kept.labels]))


def _twin(number: int, world: ClassWorld) -> nn.Module:
    return world.twins[number]


Make = Callable[[ClassWorld], nn.Module]
HIDDEN: dict[str, Make] = {
    "bias": biased,
    "row": randomised,
    "erased": erased,
    "merged": merged,
    "pruned": pruned,
    "random labels": random_labels,
    "neighbour's label": relabelled,
    "fine-tuned": fine_tuned,
    "ssd": dampened,
}
HONEST: dict[str, Make] = {f"retrained {number}": partial(_twin, number) for number in range(3)}
VERSIONS = dict.fromkeys((*HIDDEN, *HONEST), 1)  # raised with every change that could move a number
