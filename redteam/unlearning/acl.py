"""ACL: a shared encoder that may not tell tasks apart, and private ones, of which that of the forget task goes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from redteam.architectures.continual import ContinualNetwork
from redteam.engine.batches import AnyBatch, LabelledBatch, LabelledSet, shuffled_batches
from redteam.engine.loop import train
from redteam.engine.seeding import derive_seed, seeded
from redteam.engine.training import Training
from redteam.unlearning.classes import count_classes, count_features, labelled_set, named_classes, quiet_bias
from redteam.unlearning.contract import UnlearningTask

Groups = tuple[tuple[int, ...], ...]  # the classes of each task


@dataclass(frozen=True, kw_only=True, slots=True)
class ACL:
    """Trains `ContinualNetwork` task by task, as many steps in all as the original; then drops the forget task.

    The classes that the labels name (see `named_classes`) are one task, which comes last; the others are tasks of
    `task_size` classes, in their order. At task t only S, P_t, the head of t and the discriminator D move, by

        L = CE + adversarial * CE(D(S(x)), task) + orthogonal * mean((S_n P_n^T)^2)

    where S reads the gradient of the second term with its sign reversed, and S_n, P_n are the codes S(x), P_t(x) of
    the batch with rows of norm 1. D is told tasks 1, 2, ... and learns on N(0, 1) noise as task 0. Half of each batch
    are examples of earlier tasks, kept as `memory` a class (the paper's variant with replay): heads that never saw
    another task's inputs cannot be compared with each other, and S would forget. CE is over the classes seen so far.

    Dropped are P_t and the head of the forget task; untrained ones are put in their place, with biases just so low
    that no training example is given to them. What S has learned of the forget task stays: the residue to be measured.
    Where nothing is labelled nothing is dropped, and the outcome is a network that knows everything.

    Source: Ebrahimi et al. 2020, Adversarial Continual Learning (arXiv 2003.09553), section 3, with the weights of
    the official code. S and D move by one optimizer, one step each. The reversal and the orthogonality are always in
    force, P_t reads the input and not S's, and no optimizer holds a module of another task.

    Attributes:
        task_size: classes of a task that stays.
        width: of S's code and of each P_t's.
        adversarial: weight of the discriminator's loss.
        orthogonal: weight of the difference loss.
        memory: examples of each earlier class that stay in training; 0 is none.
        share: a class goes if more than this share of its training examples is labelled.
    """

    task_size: int = 2
    width: int = 128
    adversarial: float = 0.05
    orthogonal: float = 0.1
    memory: int = 100
    share: float = 0.0

    name = "acl"
    version = 1
    goal = "trains task by task, shared and private encoders held apart, and drops the private one of what must go"
    paper = "Ebrahimi et al. 2020, Adversarial Continual Learning (arXiv 2003.09553)"
    when = "training"
    kinds = "classifier"
    touches = "every weight, from nothing; then the private encoder and the head of the forget task"
    cost = "as many steps as plain training, each about 19 times as large on digits"

    def apply(self, task: UnlearningTask) -> nn.Module:
        """Trains a new network and drops the forget task.

        Raises:
            InputError: no recipe of the original is known, or it is no classifier.
            Diverged: the loss is not finite.
        """
        training = task.require_training()
        data = labelled_set(training, self.name)
        gone = named_classes(training, self.share)
        tasks = tasks_of(count_classes(data), gone, self.task_size)
        player = self._new(data, tasks, derive_seed(task.seed, "acl", "weights"))
        self._train(player, data, training, task)
        network = player.network
        if gone:
            blank = self._new(data, tasks, derive_seed(task.seed, "acl", "blank")).network
            network.drop(max(tasks) - 1, blank)
            with torch.no_grad():
                network.get_parameter(f"heads.{max(tasks) - 1}.bias").sub_(quiet_bias(network, gone, data))
        return network

    def _new(self, data: LabelledSet, tasks: list[int], seed: int) -> Player:
        """Returns an untrained network with its adversary, in evaluation mode."""
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(seed)
            network = ContinualNetwork(features=count_features(data), tasks=tasks, width=self.width)
            return Player(network).eval()

    def _train(self, player: Player, data: LabelledSet, training: Training, task: UnlearningTask) -> None:
        """Trains one task after another, in place, for as many steps in all as plain training takes."""
        groups, total = player.network.groups, training.tuning.steps
        for index in range(len(groups)):
            first, last = total * index // len(groups), total * (index + 1) // len(groups)
            if first == last or not torch.isin(data.labels, torch.tensor(groups[index])).any():
                continue
            report = partial(_report, task, first, total)
            train(
                player,
                self._batches(data, groups, index, training.batch_size, task.seed),
                replace(training.tuning, steps=last - first),
                loss=self.loss_of(index, groups, seeded(task.seed, "acl", "noise", index)),
                only=belongs_to(index),
                on_step=report,
            )

    def _batches(self, data: LabelledSet, groups: Groups, index: int, size: int, seed: int) -> Iterator[AnyBatch]:
        """Yields batches of task `index`, half of them memories of the tasks before it."""
        new = data.take(torch.isin(data.labels, torch.tensor(groups[index])))
        earlier = [c for group in groups[:index] for c in group]
        if not earlier or not self.memory:
            yield from shuffled_batches(new, size, seeded(seed, "acl", "order", index))
        kept = data.take(torch.cat([_some_of(data, c, self.memory, seed) for c in earlier]))
        half = max(1, size // 2)
        fresh = shuffled_batches(new, half, seeded(seed, "acl", "order", index))
        memories = shuffled_batches(kept, half, seeded(seed, "acl", "memory", index))
        for left, right in zip(fresh, memories, strict=False):
            assert isinstance(left, LabelledBatch)
            assert isinstance(right, LabelledBatch)
            yield LabelledBatch(torch.cat([left.inputs, right.inputs]), torch.cat([left.labels, right.labels]))

    def loss_of(self, index: int, groups: Groups, noise: torch.Generator) -> Callable[[nn.Module, AnyBatch], Tensor]:
        """Returns the loss of task `index`, L above, of a `Player` and a batch.

        Args:
            index: of the task, counted from 0.
            groups: the classes of each task.
            noise: draws the discriminator's fakes.
        """
        owner = {c: number for number, group in enumerate(groups) for c in group}
        task_of = torch.tensor([owner[c] for c in range(len(owner))])

        def loss(player: nn.Module, batch: AnyBatch) -> Tensor:
            assert isinstance(player, Player)
            assert isinstance(batch, LabelledBatch)
            shared, private = player.network.encode(batch.inputs, index)
            logits = batch.logits(player.network).masked_fill(task_of > index, -torch.inf)
            told = task_of[batch.labels] + 1
            seen = torch.cat([reversed_gradient(shared), torch.randn(shared.shape, generator=noise)])
            wanted = torch.cat([told, torch.zeros_like(told)])
            fooled = functional.cross_entropy(player.discriminator(seen), wanted)
            apart = self.orthogonal * difference(shared, private)
            return functional.cross_entropy(logits, batch.labels) + self.adversarial * fooled + apart

        return loss


class Player(nn.Module):
    """A network and its adversary D: the task from the shared code, 0 for noise and t + 1 for task t."""

    def __init__(self, network: ContinualNetwork) -> None:
        """Arg: network: D is as wide as its shared code."""
        super().__init__()
        width = network.width
        self.network = network
        self.discriminator = nn.Sequential(
            nn.Linear(width, width), nn.LeakyReLU(), nn.Linear(width, width), nn.Linear(width, len(network.groups) + 1)
        )


def tasks_of(classes: int, gone: Sequence[int], size: int) -> list[int]:
    """Returns the task of each class, from 1: of what stays `size` classes a task, in order; what goes is the last."""
    stay = [c for c in range(classes) if c not in gone]
    last = -(-len(stay) // size) + 1
    return [last if c in gone else stay.index(c) // size + 1 for c in range(classes)]


def belongs_to(index: int) -> Callable[[str], bool]:
    """Returns which parameters of a `Player` move at task `index`, by name."""
    moving = ("discriminator.", "network.shared.", f"network.private.{index}.", f"network.heads.{index}.")
    return lambda name: name.startswith(moving)


def reversed_gradient(x: Tensor) -> Tensor:
    """Returns x, whose gradient comes back with its sign reversed: 2 sg(x) - x, which is x in every bit."""
    return 2 * x.detach() - x


def difference(left: Tensor, right: Tensor) -> Tensor:
    """Returns mean((L_n R_n^T)^2) over all pairs of rows, each of norm 1, from [samples, width] twice; a scalar."""
    return (functional.normalize(left, dim=1) @ functional.normalize(right, dim=1).T).square().mean()


def _report(task: UnlearningTask, before: int, total: int, done: int) -> None:
    task.progress("training (acl)", before + done, total)


def _some_of(data: LabelledSet, label: int, count: int, seed: int) -> Tensor:
    """Returns the rows of at most `count` examples of a class, drawn for the seed."""
    rows = (data.labels == label).nonzero().flatten()
    order = torch.randperm(len(rows), generator=seeded(seed, "acl", "remembered", label))
    return rows[order[:count]]
