"""An unlearned target with what it is compared with: three checkpoints side by side and the manifest that ties them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PreTrainedTokenizerBase

from redteam.checkpoints.manifest import manifest_path, write_manifest
from redteam.checkpoints.save import check_place, save_checkpoint
from redteam.config.manifest import CheckpointRef, Manifest, TestbedRef


@dataclass(frozen=True, kw_only=True, slots=True)
class Trio:
    """Three models that read the same items; classifiers may differ in architecture.

    Attributes:
        target: after unlearning.
        original: before it.
        reference: never had the capability.
        tokenizer: of all three; None for classifiers of arrays.
        further: more models that never had the capability.
    """

    target: nn.Module
    original: nn.Module
    reference: nn.Module
    tokenizer: PreTrainedTokenizerBase | None
    further: Sequence[nn.Module] = ()


def save_trio(
    out: Path,
    trio: Trio,
    *,
    method: str,
    seed: int,
    capability: TestbedRef | Path,
    **record: Any,
) -> Manifest:
    """Writes the three models and, last, the manifest: where that is, everything is whole.

    Args:
        out: of the target; the others lie beside it, see `beside`.
        trio: the models.
        method: that made the target.
        seed: of the method.
        capability: a testbed's, or the path of a `capability.toml`.
        record: further fields of the manifest: options, label_fraction, then, costs, alignment_tax.

    Raises:
        InputError: a place cannot be written.
    """
    manifest_path(out).unlink(missing_ok=True)  # so that an old one never stands beside new weights

    def saved(role: str, module: nn.Module) -> CheckpointRef:
        path = beside(out, role)
        digest = save_checkpoint(path, module, trio.tokenizer)
        return CheckpointRef(path=_from_manifest(path, out), sha256=digest)

    manifest = Manifest(
        method=method,
        seed=seed,
        **record,
        target=saved("target", trio.target),  # first: where the manifest lies depends on whether it is a directory
        original=saved("original", trio.original),
        reference=saved("reference", trio.reference),
        further_references=[saved(f"reference-{number}", module) for number, module in enumerate(trio.further, 2)],
        capability=_from_manifest(capability, out) if isinstance(capability, Path) else capability,
    )
    write_manifest(out, manifest)
    return manifest


def check_places(out: Path, references: int = 1) -> None:
    """Makes sure that a trio, with so many references, can be written to `out`, before the work that leads to one.

    Raises:
        InputError: as `save_trio`.
    """
    for role in roles_of(references):
        check_place(beside(out, role))


def roles_of(references: int = 1) -> list[str]:
    """Returns what the models of a trio are called, with so many references."""
    further = (f"reference-{number}" for number in range(2, references + 1))
    return ["target", "original", "reference", *further]


def beside(out: Path, role: str) -> Path:
    """Returns the path of a model of a trio: `model.pt` -> `model.original.pt`, `model` -> `model-original`."""
    if role == "target":
        return out
    return out.with_name(f"{out.stem}.{role}{out.suffix}" if out.suffix else f"{out.name}-{role}")


def _from_manifest(path: Path, out: Path) -> str:
    """Returns `path` as the manifest of `out` names it: the three and their manifest may be moved together."""
    return os.path.relpath(path.resolve(), manifest_path(out).parent.resolve())
