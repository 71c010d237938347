"""`model.redteam.json`: what stands beside an unlearned checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from redteam.config.files import UNREADABLE, Strict, read_text, validated
from redteam.errors import InputError

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class CheckpointRef(Strict):
    """A checkpoint beside the manifest: path relative to it, and the digest its weights must have."""

    path: str
    sha256: Digest


class TestbedRef(Strict):
    """A capability of a built-in testbed, regenerated from its seed; the digest guards against drift."""

    __test__ = False  # not a pytest class

    testbed: Annotated[str, Field(pattern=r"^[a-z0-9_-]+$")]  # a name, never a file that would be imported
    seed: int
    sha256: Digest


class CostRecord(Strict):
    """What a piece of work took, for the record; see `redteam.engine.cost.Cost`."""

    flops: float
    seconds: float
    peak_bytes: int


class Measured(Strict):
    """A number with its 95 % interval."""

    estimate: float
    low: float
    high: float


class Manifest(Strict):
    """`model.redteam.json`: ties an unlearned checkpoint to its original, its reference and its capability.

    Attributes:
        method: the unlearning method that made the target, for the record.
        seed: of the method.
        options: of the method, and with the prefix "then." of the stage after it.
        label_fraction: share of the forget set that the method was told of.
        then: the stage that followed the method.
        costs: of plain training, of the method, and of the stage after it.
        alignment_tax: utility lost against the original.
        target: the unlearned checkpoint.
        original: the model before unlearning.
        reference: a model that never had the capability.
        capability: a testbed's, or the path of a `capability.toml`.
    """

    schema_version: Literal[1] = 1
    method: str
    seed: int
    options: dict[str, bool | int | float | str] = Field(default_factory=dict)
    label_fraction: float = Field(default=1.0, ge=0, le=1)
    then: Literal["retain", "mixture"] | None = None
    costs: dict[str, CostRecord] = Field(default_factory=dict)
    alignment_tax: Measured | None = None
    target: CheckpointRef
    original: CheckpointRef | None = None
    reference: CheckpointRef | None = None
    capability: TestbedRef | str


def read_manifest(path: Path) -> Manifest:
    """Reads a sidecar manifest.

    Raises:
        InputError: it is not JSON, or not of this form.
    """
    try:
        data = json.loads(read_text(path))
    except UNREADABLE as error:
        raise InputError(f"{path} is not readable JSON ({error})", "Write it again with `redteam unlearn`") from error
    return validated(Manifest, data, path)
