"""Builds an unlearned target on a testbed: the target, its original, its reference, and what ties them together."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from redteam.capabilities.encode import encode_answers
from redteam.capabilities.items import Capability
from redteam.checkpoints.manifest import write_manifest
from redteam.checkpoints.save import check_place, save_checkpoint
from redteam.config import CheckpointRef, Manifest, TestbedRef
from redteam.engine.seeding import derive_seed
from redteam.registry import METHODS, TESTBEDS
from redteam.testbeds.contract import Testbed
from redteam.unlearning.contract import Method, Progress, UnlearningTask, silent


@dataclass(frozen=True, kw_only=True, slots=True)
class Trio:
    """Three models of one world.

    Attributes:
        capability: what was removed.
        original: knows everything.
        reference: never saw the forget facts.
        target: the original after unlearning.
    """

    capability: Capability
    original: nn.Module
    reference: nn.Module
    target: nn.Module


def build_trio(method: Method, testbed: Testbed, *, seed: int = 0, progress: Progress = silent) -> Trio:
    """Trains original and reference and applies the method. Deterministic for a seed and a thread count."""
    capability = testbed.capability(seed)

    def trained(what: str, seed: int, *, with_forget: bool, report: Progress) -> nn.Module:
        def named(_: str, done: int, total: int) -> None:
            report(what, done, total)

        return testbed.train_model(capability, with_forget=with_forget, seed=seed, progress=named)

    original = trained("training the original", derive_seed(seed, "original"), with_forget=True, report=progress)
    reference = trained("training the reference", derive_seed(seed, "reference"), with_forget=False, report=progress)
    tokenizer = testbed.tokenizer()
    task = UnlearningTask(
        original=original,
        forget=encode_answers(tokenizer, capability.forget),
        retain=encode_answers(tokenizer, capability.retain),
        train_without=lambda seed, report: trained(
            "training without the forget facts", seed, with_forget=False, report=report
        ),
        seed=seed,
        progress=progress,
    )
    return Trio(capability=capability, original=original, reference=reference, target=method.apply(task))


def unlearn(method: str, *, testbed: str = "facts", out: Path, seed: int = 0, progress: Progress = silent) -> Manifest:
    """Builds an unlearned target and writes it, with its original, its reference and a manifest beside it.

    Args:
        method: a name of `redteam list methods`.
        testbed: a name of `redteam list testbeds`.
        out: `model.pt`, `model.safetensors`, or a directory to be written in Hugging Face form.
        seed: of the world, the training and the method.
        progress: hears how far it has come.

    Raises:
        InputError: an unknown name, or a place that cannot be written.
    """
    world: Testbed = TESTBEDS.create(testbed)
    removal: Method = METHODS.create(method)
    for path in (out, beside(out, "original"), beside(out, "reference")):
        check_place(path)
    trio = build_trio(removal, world, seed=seed, progress=progress)
    tokenizer = world.tokenizer()

    def saved(path: Path, module: nn.Module) -> CheckpointRef:
        return CheckpointRef(path=path.name, sha256=save_checkpoint(path, module, tokenizer))

    manifest = Manifest(
        method=method,
        seed=seed,
        target=saved(out, trio.target),
        original=saved(beside(out, "original"), trio.original),
        reference=saved(beside(out, "reference"), trio.reference),
        capability=TestbedRef(testbed=testbed, seed=seed, sha256=trio.capability.sha256),
    )
    write_manifest(out, manifest)
    return manifest


def beside(path: Path, role: str) -> Path:
    """Returns the path of another model of the same trio: `model.pt` -> `model.original.pt`."""
    return path.with_name(f"{path.stem}.{role}{path.suffix}") if path.suffix else path.with_name(f"{path.name}.{role}")
