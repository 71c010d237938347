"""NMN and ACL: what is dropped, what moves when, and the terms of the losses against closed forms."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
from typing import Any

import pytest
import torch
from tiny_models import same_bits, weights_of
from torch import Tensor, nn
from torch.nn import functional

from redteam.architectures.continual import ContinualNetwork
from redteam.architectures.modular import Describe, Find, ModuleNetwork
from redteam.engine.batches import LabelledBatch, LabelledSet, shuffled_batches
from redteam.engine.loop import train
from redteam.engine.optimizers import Tuning
from redteam.engine.seeding import seeded
from redteam.engine.training import Training
from redteam.errors import InputError
from redteam.registry import ARCHITECTURES
from redteam.unlearning.acl import ACL, Player, belongs_to, difference, reversed_gradient, tasks_of
from redteam.unlearning.classes import named_classes, quiet_bias
from redteam.unlearning.contract import UnlearningTask
from redteam.unlearning.nmn import NMN

CLASSES, FEATURES = 5, 12
METHODS = [NMN(positions=4, width=8, hidden=8), ACL(width=16, memory=10)]
each_method = pytest.mark.parametrize("method", METHODS, ids=["nmn", "acl"])


def blobs(count: int, seed: int) -> LabelledSet:
    """Points round one centre a class; inputs have the shape of images."""
    draw = torch.Generator().manual_seed(seed)
    centres = 2 * torch.randn(CLASSES, FEATURES, generator=torch.Generator().manual_seed(99))
    labels = torch.arange(count) % CLASSES
    return LabelledSet((centres[labels] + torch.randn(count, FEATURES, generator=draw)).reshape(-1, 1, 3, 4), labels)


def task_of(forgotten: int | None = 3, seed: int = 0, steps: int = 250) -> UnlearningTask:
    data = blobs(200, seed=1)
    labelled = torch.zeros(len(data), dtype=torch.bool) if forgotten is None else data.labels == forgotten
    training = Training(
        build=lambda seed: nn.Sequential(nn.Flatten(), nn.Linear(FEATURES, CLASSES)),
        data=data,
        labelled=labelled,
        tuning=Tuning(learning_rate=5e-3, schedule="one-cycle", steps=steps, clip=1.0),
        batch_size=32,
    )
    return UnlearningTask(
        original=training.new(0).eval(),
        forget=training.forget,
        retain=training.rest,
        known=lambda module: 0.0,
        training=training,
        seed=seed,
    )


@torch.no_grad()
def accuracy(module: nn.Module, data: LabelledSet) -> float:
    return float((module(data.inputs).argmax(dim=1) == data.labels).float().mean())


def only(data: LabelledSet, label: int, keep: bool) -> LabelledSet:
    return data.take((data.labels == label) == keep)


# Both methods.


@each_method
def test_the_named_class_is_gone_and_the_others_stay(method: Any) -> None:
    made, unseen = method.apply(task_of(forgotten=3)), blobs(500, seed=2)
    assert accuracy(made, only(unseen, 3, True)) < 0.05
    assert accuracy(made, only(unseen, 3, False)) > 0.9


@each_method
def test_without_labels_nothing_is_dropped(method: Any) -> None:
    made = method.apply(task_of(forgotten=None))
    assert accuracy(made, blobs(500, seed=2)) > 0.9


@each_method
def test_deterministic_and_the_original_and_the_random_state_are_left_alone(method: Any) -> None:
    task = task_of(steps=8)
    before = weights_of(task.original)
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    first = method.apply(task)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert same_bits(weights_of(task.original), before)
    assert same_bits(weights_of(first), weights_of(method.apply(task)))
    assert not same_bits(weights_of(first), weights_of(method.apply(dataclasses.replace(task, seed=1))))
    assert not any(part.training for part in first.modules())
    assert all(p.grad is None and p.requires_grad for p in first.parameters())


@each_method
def test_it_takes_as_many_steps_as_plain_training(method: Any) -> None:
    heard: list[tuple[str, int, int]] = []
    method.apply(dataclasses.replace(task_of(steps=11), progress=lambda *what: heard.append(what)))
    assert [(done, total) for _, done, total in heard] == [(step, 11) for step in range(1, 12)]


@each_method
def test_what_is_dropped_is_dropped_in_the_weights(method: Any) -> None:
    """A module built anew from the description and the weights answers the same, bit for bit."""
    made, inputs = method.apply(task_of(steps=20)), blobs(20, seed=3).inputs
    said = json.loads(json.dumps(made.description))
    place = ARCHITECTURES.require(said.pop("name"))
    assert place == f"{type(made).__module__}:{type(made).__name__}"
    again = type(made)(**said)
    again.load_state_dict(made.state_dict())
    with torch.no_grad():
        assert torch.equal(again.eval()(inputs), made(inputs))


@each_method
def test_a_language_model_is_refused(method: Any) -> None:
    training = dataclasses.replace(task_of().training, data=object())  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no classifier"):
        method.apply(dataclasses.replace(task_of(), training=training))


@pytest.mark.parametrize(
    ("marked", "share", "named"),
    [([2], 0.0, (2,)), ([2], 0.4, ()), ([2, 7, 12], 0.5, (2,)), ([2, 7, 13], 0.0, (2, 3)), ([], 0.0, ())],
)
def test_classes_named_by_labels(marked: list[int], share: float, named: tuple[int, ...]) -> None:
    """Rows 2, 7, 12, 17 are of class 2."""
    training = task_of().training
    assert training is not None
    labelled = torch.zeros(20, dtype=torch.bool)
    labelled[marked] = True
    small = dataclasses.replace(training, data=blobs(20, seed=0), labelled=labelled)
    assert named_classes(small, share) == named


def test_the_quiet_bias_is_no_lower_than_it_must_be() -> None:
    logits = torch.tensor([[1.0, 5.0, 2.0], [0.0, -9.0, 1.0]])
    data = LabelledSet(logits, torch.tensor([0, 2]))
    assert quiet_bias(nn.Identity(), (1,), data).tolist() == pytest.approx([3.001])
    assert quiet_bias(nn.Identity(), (0,), data).tolist() == [0.0]
    assert quiet_bias(nn.Identity(), (0, 1, 2), data).tolist() == [0.0, 0.0, 0.0]


# NMN.


def test_a_dropped_module_changes_its_own_logit_only() -> None:
    torch.manual_seed(0)
    network, blank = (ModuleNetwork(features=FEATURES, classes=CLASSES) for _ in range(2))
    inputs = blobs(30, seed=1).inputs
    with torch.no_grad():
        before = network(inputs)
        network.drop((1, 4), blank)
        after = network(inputs)
    kept = [0, 2, 3]
    assert torch.equal(before[:, kept], after[:, kept])
    assert (before[:, [1, 4]] != after[:, [1, 4]]).all()


def test_find_and_describe_are_what_they_say() -> None:
    torch.manual_seed(0)
    find, describe = Find(width=3, hidden=4, labels=2), Describe(width=3, labels=2)
    x = torch.randn(2, 5, 3)
    with torch.no_grad():
        attention = find(x)
        logits = describe(x, attention)
        for sample in range(2):
            for label in range(2):
                attended = torch.zeros(3)
                for position in range(5):
                    seen = find.project.weight @ x[sample, position] + find.project.bias + find.embedding[label]
                    score = float(find.attend.weight[0] @ seen.clamp(min=0) + find.attend.bias[0])
                    assert attention[sample, position, label].item() == pytest.approx(1 / (1 + math.exp(-score)), 1e-5)
                    attended += x[sample, position] * attention[sample, position, label] / 5
                expected = float(describe.weight[label] @ attended + describe.bias[label])
                assert logits[sample, label].item() == pytest.approx(expected, abs=1e-5)


class Grid(nn.Module):
    """Is there a cell that is both of a colour and of a shape? exists(find[colour] and find[shape])."""

    def __init__(self) -> None:
        super().__init__()
        self.find = Find(width=8, hidden=24, labels=8)

    def forward(self, inputs: Tensor) -> Tensor:
        grids, questions = inputs[:, :128].reshape(-1, 16, 8), inputs[:, 128:].long()
        found = self.find(grids)
        both = [found.gather(2, questions[:, None, k, None].expand(-1, 16, 1)).squeeze(2) for k in range(2)]
        present = (both[0] * both[1]).amax(dim=1).clamp(1e-4, 1 - 1e-4)
        return torch.stack([(1 - present).log(), present.log()], dim=1)


def grids(count: int, seed: int) -> LabelledSet:
    """4 x 4 cells, each empty or of one of 4 colours and 4 shapes; questions of which half are true."""
    draw = torch.Generator().manual_seed(seed)
    colour, shape = torch.randint(4, (2, count, 16), generator=draw)
    full = torch.rand(count, 16, generator=draw) < 0.4
    cells = torch.cat([functional.one_hot(colour, 4), functional.one_hot(shape, 4)], dim=2) * full[:, :, None]
    asked = torch.randint(4, (2, count), generator=draw)
    truth = ((colour == asked[0][:, None]) & (shape == asked[1][:, None]) & full).any(dim=1)
    questions = torch.stack([asked[0], asked[1] + 4], dim=1)
    return LabelledSet(torch.cat([cells.flatten(1), questions], dim=1).float(), truth.long())


def test_on_the_grid_a_dropped_row_comes_back_alone_because_the_rest_knew_it() -> None:
    torch.manual_seed(0)
    network, data, unseen = Grid(), grids(4000, seed=1), grids(2000, seed=2)
    whole = data.batch(slice(None))
    start = float(whole.loss(network).detach())
    train(network, iter([whole]), Tuning(learning_rate=1e-3, steps=1))
    assert float(whole.loss(network).detach()) < start  # the first update descends
    train(network, shuffled_batches(data, 128, seeded(0)), Tuning(learning_rate=1e-2, steps=1200, schedule="one-cycle"))
    about = unseen.inputs[:, 128] == 2
    assert accuracy(network, unseen) > 0.97

    dropped = copy.deepcopy(network)
    with torch.no_grad():
        dropped.find.embedding[2] = -3.0
        assert torch.equal(dropped(unseen.inputs[~about]), network(unseen.inputs[~about]))
    assert accuracy(dropped, unseen.take(about)) < 0.8

    asked = data.inputs[:, 128] == 2
    few = data.take(asked.nonzero().flatten()[:64])
    shared = weights_of(dropped)
    with torch.no_grad():
        dropped.find.embedding[2] = torch.randn(24, generator=torch.Generator().manual_seed(4))
    kept_rows = [0, 1, 3, 4, 5, 6, 7]
    dropped.find.embedding.register_hook(lambda grad: grad * (torch.arange(8) == 2)[:, None])
    batches = shuffled_batches(few, 64, seeded(1))
    train(dropped, batches, Tuning(learning_rate=5e-2, steps=150), only=lambda name: name == "find.embedding")
    after = weights_of(dropped)
    assert torch.equal(after["find.embedding"][kept_rows], shared["find.embedding"][kept_rows])
    assert accuracy(dropped, unseen.take(about)) > 0.95


# ACL.


def test_tasks_are_pairs_in_order_and_what_goes_is_the_last() -> None:
    assert tasks_of(6, (3,), 2) == [1, 1, 2, 4, 2, 3]
    assert tasks_of(5, (), 2) == [1, 1, 2, 2, 3]
    assert tasks_of(3, (0, 1, 2), 2) == [1, 1, 1]
    assert ContinualNetwork(features=2, tasks=[1, 1, 2, 4, 2, 3]).groups == ((0, 1), (2, 4), (5,), (3,))


@pytest.mark.parametrize("tasks", [[], [0, 1], [1, 3], [1.0, 2], [True, 2]])
def test_tasks_that_make_no_sense(tasks: list[Any]) -> None:
    with pytest.raises(ValueError, match="tasks must be"):
        ContinualNetwork(features=2, tasks=tasks)


def test_logits_stand_in_the_order_of_the_classes() -> None:
    torch.manual_seed(0)
    network, x = ContinualNetwork(features=FEATURES, tasks=[2, 1, 2], width=6), torch.randn(4, FEATURES)
    with torch.no_grad():
        shared, first = network.encode(x, 0)
        _, second = network.encode(x, 1)
        pair = network.heads[1](torch.cat([second, shared], dim=1))
        expected = torch.cat([pair[:, :1], network.heads[0](torch.cat([first, shared], dim=1)), pair[:, 1:]], dim=1)
        assert torch.equal(network(x), expected)


def test_the_reversal_changes_no_bit_and_the_sign_of_the_gradient() -> None:
    x = torch.tensor([0.1, -3.3, 1e-20, 7e7], requires_grad=True)
    y = reversed_gradient(x)
    assert torch.equal(y, x)
    (y * torch.tensor([1.0, 2.0, 3.0, 4.0])).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [-1.0, -2.0, -3.0, -4.0]


def gradients(method: ACL, player: Player, batch: LabelledBatch) -> dict[str, Tensor]:
    player.zero_grad(set_to_none=True)
    method.loss_of(1, player.network.groups, seeded(0))(player, batch).backward()
    return {name: p.grad.clone() for name, p in player.named_parameters() if p.grad is not None}


def test_s_climbs_the_loss_that_d_descends() -> None:
    """Against the discriminator's loss written out here, without a reversal."""
    torch.manual_seed(0)
    player = Player(ContinualNetwork(features=FEATURES, tasks=[1, 1, 2, 2, 3], width=8)).double()
    data = blobs(40, seed=1).batch(slice(None))
    data = dataclasses.replace(data, inputs=data.inputs.double()[data.labels < 4], labels=data.labels[data.labels < 4])
    plain = gradients(ACL(adversarial=0.0, orthogonal=0.0), player, data)
    whole = gradients(ACL(adversarial=0.5, orthogonal=0.0), player, data)
    player.zero_grad(set_to_none=True)
    shared, _ = player.network.encode(data.inputs, 1)
    fakes = torch.randn(shared.shape, generator=seeded(0))
    told = torch.cat([data.labels // 2 + 1, torch.zeros_like(data.labels)])
    (0.5 * functional.cross_entropy(player.discriminator(torch.cat([shared, fakes.double()])), told)).backward()
    for name, parameter in player.named_parameters():
        if name.startswith(("network.shared", "discriminator")):
            added = whole[name] - plain.get(name, torch.zeros_like(whole[name]))
            assert parameter.grad is not None
            assert float(parameter.grad.norm()) > 0
            sign = -1 if name.startswith("network.shared") else 1
            assert torch.allclose(added, sign * parameter.grad, atol=1e-7), name


def test_the_difference_loss_is_the_mean_squared_cosine_of_all_pairs() -> None:
    left, right = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(0))
    cosines = [float(torch.cosine_similarity(a, b, dim=0)) for a in left for b in right]
    assert difference(left, right).item() == pytest.approx(sum(c * c for c in cosines) / 16, rel=1e-5)
    assert difference(torch.eye(4)[:2], torch.eye(4)[2:]).item() == 0
    assert difference(5 * torch.eye(1, 3), -2 * torch.eye(1, 3)).item() == 1


@pytest.mark.parametrize("index", [0, 1, 2])
def test_only_the_task_in_training_and_what_is_shared_moves(index: int) -> None:
    torch.manual_seed(0)
    player = Player(ContinualNetwork(features=FEATURES, tasks=[1, 1, 2, 2, 3], width=8))
    before = weights_of(player)
    data = blobs(60, seed=1)
    seen = data.take(data.labels < [2, 4, 5][index])
    loss = ACL().loss_of(index, player.network.groups, seeded(0))
    batches = shuffled_batches(seen, 16, seeded(1))
    train(player, batches, Tuning(learning_rate=1e-2, steps=5), loss=loss, only=belongs_to(index))
    moved = {name for name, tensor in weights_of(player).items() if not torch.equal(tensor, before[name])}
    own = {n for n in before if n.startswith((f"network.private.{index}.", f"network.heads.{index}."))}
    common = {n for n in before if n.startswith(("network.shared.", "discriminator."))}
    assert moved == own | common


def test_a_whole_run_leaves_the_modules_of_earlier_tasks_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    states: list[dict[str, Tensor]] = []

    def noted(player: nn.Module, *arguments: Any, **named: Any) -> Any:
        spent = train(player, *arguments, **named)
        states.append(weights_of(player))
        return spent

    monkeypatch.setattr("redteam.unlearning.acl.train", noted)
    ACL(width=8).apply(task_of(steps=15))
    assert len(states) == 3
    for task, after in enumerate(states):
        own = [n for n in after if n.startswith((f"network.private.{task}.", f"network.heads.{task}."))]
        assert own
        # Of the last task, which is dropped, there is no later state to compare with.
        assert all(torch.equal(after[n], later[n]) for later in states[task + 1 :] for n in own)
    assert any(not torch.equal(states[0][n], states[1][n]) for n in states[0] if n.startswith("network.shared."))
