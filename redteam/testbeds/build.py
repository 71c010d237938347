"""Builds an unlearned target on a testbed: the target, its original, its reference, and what ties them together."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from redteam.capabilities.encode import encode_answers
from redteam.capabilities.items import Capability
from redteam.capabilities.reading import encode_scoring
from redteam.capabilities.scorers.contract import Scorer, item_scores, share_known
from redteam.checkpoints.trio import Trio, check_places, roles_of, save_trio
from redteam.config.manifest import Manifest, TestbedRef
from redteam.engine.batches import Examples
from redteam.engine.cost import Meter
from redteam.engine.seeding import derive_seed, seeded
from redteam.engine.training import Progress, Training, silent
from redteam.errors import InputError
from redteam.judging.recovery import score_lost
from redteam.record import Cost, Interval
from redteam.registry import METHODS, TESTBEDS
from redteam.testbeds.contract import Option, Testbed
from redteam.unlearning.apply import Unlearned, apply_method
from redteam.unlearning.contract import Method, UnlearningTask
from redteam.unlearning.fitting import refuse_unmatched
from redteam.unlearning.options import create_method, options_of, with_options
from redteam.unlearning.stages import FollowUp, Then

THEN = "then."  # before the names of the options of the stage that follows


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """A testbed with its models trained: what every method starts from.

    Attributes:
        testbed: the world.
        seed: of the world, the training and the methods.
        capability: what is to be removed.
        training: how the original was trained; every forget example is labelled.
        about: group that each example of the training data speaks of.
        original: knows everything.
        reference: never saw the forget examples.
        further: more of these, from other seeds.
        plain: what training the original cost.
    """

    testbed: Testbed
    seed: int
    capability: Capability
    training: Training
    about: tuple[str, ...]
    original: nn.Module
    reference: nn.Module
    plain: Cost
    further: tuple[nn.Module, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class TargetSpec:
    """Which target to build of a world, in plain data.

    Attributes:
        method: a name of `redteam list methods`.
        label_fraction: share of the forget facts that are labelled; the others are mixed into what must stay.
        then: the stage that follows, if any.
        options: of the method, and with the prefix "then." of the stage.
    """

    method: str
    label_fraction: float = 1.0
    then: Then | None = None
    options: Mapping[str, Option] = field(default_factory=dict)


def train_world(testbed: str, *, seed: int = 0, references: int = 1, progress: Progress = silent) -> World:
    """Trains original and references. Deterministic for a seed and a thread count.

    Raises:
        InputError: an unknown name.
    """
    world: Testbed = TESTBEDS.create(testbed)
    capability = world.capability(seed)
    training, about = world.training(capability)
    forget = {item.group for item in capability.forget}
    training = replace(training, labelled=_mask(about, forget))
    with Meter() as meter:
        original = training.fit(
            training.data, seed=derive_seed(seed, "original"), progress=progress, what="training the original"
        )
    never = [
        training.fit(training.rest, seed=derive_seed(seed, role), progress=progress, what=f"training the {role}")
        for role in roles_of(references)[2:]
    ]
    return World(
        testbed=world,
        seed=seed,
        capability=capability,
        training=training,
        about=about,
        original=original,
        reference=never[0],
        further=tuple(never[1:]),
        plain=meter.cost,
    )


def unlearning_task(world: World, label_fraction: float = 1.0, progress: Progress = silent) -> UnlearningTask:
    """Returns what a method gets of a world when a share of the forget facts is labelled.

    The facts to label are drawn whole, and a larger share contains a smaller one.

    Raises:
        InputError: the share is not in [0, 1].
    """
    if not 0 <= label_fraction <= 1:
        raise InputError(f"the label fraction is {label_fraction}", "Give a share between 0 and 1")
    groups = sorted({item.group for item in world.capability.forget} & set(world.about))
    random.Random(derive_seed(world.seed, "labels")).shuffle(groups)
    count = max(round(label_fraction * len(groups)), int(label_fraction > 0))
    labelled = _mask(world.about, set(groups[:count]))
    utility = _mask(world.about, {item.group for item in world.capability.utility})
    training = replace(world.training, labelled=labelled)
    return UnlearningTask(
        original=world.original,
        forget=training.forget,
        retain=training.data.take(_mixed(~labelled & ~utility, all_labelled=count == len(groups), seed=world.seed)),
        known=_known(world, set(groups[:count]), world.capability.utility_scorer),
        training=training,
        seed=world.seed,
        progress=progress,
    )


def make_target(spec: TargetSpec, world: World, progress: Progress = silent) -> tuple[Unlearned, dict[str, Option]]:
    """Applies a method to a world.

    Returns:
        The unlearned model with its costs, and every option that was in force.

    Raises:
        InputError: an unknown name or option, or a method that fails.
    """
    method, then = _plan(spec, world.testbed)
    task = unlearning_task(world, spec.label_fraction, progress)
    if method.when == "control":
        task = _on_answers(task, world)
    data = _mixture(world) if spec.then == "mixture" else None
    made = apply_method(method, task, then=then, then_data=data)
    used = options_of(method) | {THEN + name: value for name, value in (options_of(then) if then else {}).items()}
    return made, used


def write_target(spec: TargetSpec, world: World, out: Path, progress: Progress = silent) -> Manifest:
    """Builds a target of a world and writes it, with its original, its reference and a manifest beside it.

    Raises:
        InputError: as `make_target`, or a place that cannot be written.
    """
    made, options = make_target(spec, world, progress)
    trio = Trio(
        target=made.module,
        original=world.original,
        reference=world.reference,
        tokenizer=world.testbed.tokenizer(),
        further=world.further,
    )
    costs = {"plain training": world.plain, **made.costs}
    return save_trio(
        out,
        trio,
        method=spec.method,
        seed=world.seed,
        capability=TestbedRef(testbed=world.testbed.name, seed=world.seed, sha256=world.capability.sha256),
        options=options,
        label_fraction=spec.label_fraction,
        then=spec.then,
        costs=costs,
        alignment_tax=alignment_tax(world, made.module),
    )


def build_target(
    method: str,
    *,
    testbed: str = "facts",
    out: Path,
    seed: int = 0,
    references: int = 1,
    label_fraction: float = 1.0,
    then: Then | None = None,
    options: Mapping[str, Option] | None = None,
    progress: Progress = silent,
) -> Manifest:
    """Builds an unlearned target from nothing and writes it, with its original and its reference beside it.

    Args:
        method: a name of `redteam list methods`.
        testbed: a name of `redteam list testbeds`.
        out: `model.pt`, `model.safetensors`, or a directory to be written in Hugging Face form.
        seed: of the world, the training and the method.
        references: so many models that never knew are trained, each from a seed of its own.
        label_fraction: share of the forget facts that are labelled.
        then: the stage that follows: "retain" or "mixture".
        options: of the method, and with the prefix "then." of the stage.
        progress: hears how far it has come.

    Raises:
        InputError: an unknown name or option, a method that fails, or a place that cannot be written.
    """
    METHODS.require(method)
    spec = TargetSpec(method=method, label_fraction=label_fraction, then=then, options=options or {})
    world: Testbed = TESTBEDS.create(testbed)
    planned, _ = _plan(spec, world)
    check_places(out, references)
    refuse_unmatched(planned, world.training(world.capability(seed))[0], seed)
    return write_target(spec, train_world(testbed, seed=seed, references=references, progress=progress), out, progress)


def alignment_tax(world: World, module: nn.Module) -> Interval:
    """Returns the utility that a model lost against the original, with a 95 % interval, paired on the same items."""
    items = world.capability.utility
    encoded = encode_scoring(world.capability, items, world.testbed.tokenizer(), world.capability.utility_scorer)
    before, after = item_scores(world.original, encoded), item_scores(module, encoded)
    return score_lost(before, after, [item.group for item in items])


def _plan(spec: TargetSpec, testbed: Testbed) -> tuple[Method, FollowUp | None]:
    """Returns the method and the stage after it, having refused what can be refused before anything is trained."""
    if not 0 <= spec.label_fraction <= 1:
        raise InputError(f"the label fraction is {spec.label_fraction}", "Give a share between 0 and 1")
    stage = {k.removeprefix(THEN): v for k, v in spec.options.items() if k.startswith(THEN)}
    own = {k: v for k, v in spec.options.items() if not k.startswith(THEN)}
    if stage and spec.then is None:
        raise InputError(f"{THEN}{min(stage)} is set, but nothing follows", "Give --then retain or --then mixture")
    method = create_method(spec.method, {**testbed.settings.get(spec.method, {}), **own})
    if testbed.kinds not in method.kinds:
        raise InputError(
            f"{method.name} works on: {method.kinds}; the models of {testbed.name} are {testbed.kinds} ones",
            "Use another method or another testbed",
        )
    return method, with_options(FollowUp(), stage, "the stage after it") if spec.then else None


def _on_answers(task: UnlearningTask, world: World) -> UnlearningTask:
    """Returns the task of a decoy, which hides what is asked for, by the scorer that judges it.

    Questions and answers stand in place of whole texts.
    """
    tokenizer = world.testbed.tokenizer()
    if task.training is None:
        return task
    shown = zip(world.about, task.training.labelled.tolist(), strict=True)
    groups = {group for group, labelled in shown if labelled}
    task = replace(task, known=_known(world, groups, world.capability.scorer))
    if tokenizer is None:
        return task
    forget = [item for item in world.capability.forget if item.group in groups]
    others = [item for item in world.capability.forget if item.group not in groups]
    retain = encode_answers(tokenizer, [*world.capability.retain, *others])
    return replace(task, forget=encode_answers(tokenizer, forget) if forget else task.forget, retain=retain)


def _known(world: World, groups: set[str], scorer: Scorer) -> Callable[[nn.Module], float]:
    """Returns a score of how much of the labelled facts a module shows: a method may steer by nothing else.

    Of a classifier that is accuracy, as in the papers of these methods, whatever the capability is judged by.
    """
    items = [item for item in world.capability.forget if item.group in groups]
    if not items:
        return lambda module: 0.0
    return partial(share_known, encoded=encode_scoring(world.capability, items, world.testbed.tokenizer(), scorer))


def _mixed(chosen: Tensor, *, all_labelled: bool, seed: int) -> Tensor:
    """Returns the rows that are chosen, int64 [rows].

    Where forget examples that nobody labelled are among them the rows are shuffled: a testbed stores its forget
    examples side by side, and a method that reads batches in stored order would see them by themselves.
    """
    rows = chosen.nonzero().flatten()
    if all_labelled:
        return rows
    return rows[torch.randperm(len(rows), generator=seeded(seed, "retain order"))]


def _mixture(world: World) -> Examples:
    """Returns the training distribution without what is held out: retain facts, and forget facts of the attack split.

    Retraining on the held-out facts themselves would leave nothing to measure.
    """
    held_out = world.capability.select + world.capability.certify + world.capability.utility
    return world.training.data.take(~_mask(world.about, {item.group for item in held_out}))


def _mask(about: tuple[str, ...], groups: set[str]) -> Tensor:
    """Returns which examples speak of one of the groups, bool [examples]."""
    return torch.tensor([group in groups for group in about])
