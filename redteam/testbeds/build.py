"""Builds an unlearned target on a testbed: the target, its original, its reference, and what ties them together."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch import nn

from redteam.capabilities.encode import encode_answers, encode_choices
from redteam.capabilities.items import Capability
from redteam.capabilities.scorers import share_known
from redteam.checkpoints.trio import Trio, check_places, save_trio
from redteam.config import Manifest, TestbedRef
from redteam.engine.seeding import derive_seed
from redteam.registry import METHODS, TESTBEDS
from redteam.testbeds.contract import Testbed
from redteam.unlearning.contract import Method, Progress, UnlearningTask, silent


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """A testbed with its models trained: what a method starts from, whichever it is.

    Attributes:
        testbed: the world.
        seed: of the world, the training and the methods.
        capability: what is to be removed.
        reference: a model that never saw the forget facts.
        task: what a method gets; its `original` knows everything.
    """

    testbed: Testbed
    seed: int
    capability: Capability
    reference: nn.Module
    task: UnlearningTask


def train_world(testbed: str, *, seed: int = 0, progress: Progress = silent) -> World:
    """Trains original and reference. Deterministic for a seed and a thread count.

    Raises:
        InputError: an unknown name.
    """
    world: Testbed = TESTBEDS.create(testbed)
    capability, tokenizer = world.capability(seed), world.tokenizer()

    def trained(what: str, seed: int, *, with_forget: bool, report: Progress) -> nn.Module:
        def named(_: str, done: int, total: int) -> None:
            report(what, done, total)

        return world.train_model(capability, with_forget=with_forget, seed=seed, progress=named)

    original = trained("training the original", derive_seed(seed, "original"), with_forget=True, report=progress)
    reference = trained("training the reference", derive_seed(seed, "reference"), with_forget=False, report=progress)
    task = UnlearningTask(
        original=original,
        forget=encode_answers(tokenizer, capability.forget),
        retain=encode_answers(tokenizer, capability.retain),
        known=partial(share_known, encoded=encode_choices(tokenizer, capability.forget)),
        train_without=lambda seed, report: trained(
            "training without the forget facts", seed, with_forget=False, report=report
        ),
        seed=seed,
        progress=progress,
    )
    return World(testbed=world, seed=seed, capability=capability, reference=reference, task=task)


def write_target(method: str, world: World, out: Path) -> Manifest:
    """Applies a method and writes the target, with its original, its reference and a manifest beside it.

    Raises:
        InputError: an unknown name, or a place that cannot be written.
    """
    removal: Method = METHODS.create(method)
    trio = Trio(
        target=removal.apply(world.task),
        original=world.task.original,
        reference=world.reference,
        tokenizer=world.testbed.tokenizer(),
    )
    ref = TestbedRef(testbed=world.testbed.name, seed=world.seed, sha256=world.capability.sha256)
    return save_trio(out, trio, method=method, seed=world.seed, capability=ref)


def unlearn(method: str, *, testbed: str = "facts", out: Path, seed: int = 0, progress: Progress = silent) -> Manifest:
    """Builds an unlearned target from nothing and writes it, with its original and its reference beside it.

    Args:
        method: a name of `redteam list methods`.
        testbed: a name of `redteam list testbeds`.
        out: `model.pt`, `model.safetensors`, or a directory to be written in Hugging Face form.
        seed: of the world, the training and the method.
        progress: hears how far it has come.

    Raises:
        InputError: an unknown name, or a place that cannot be written.
    """
    METHODS.require(method)
    check_places(out)
    return write_target(method, train_world(testbed, seed=seed, progress=progress), out)
