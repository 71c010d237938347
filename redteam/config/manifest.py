"""`model.redteam.json`: what stands beside an unlearned checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from redteam.config.files import UNREADABLE, read_text, validated
from redteam.errors import InputError
from redteam.record import Cost, Interval, Record

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class CheckpointRef(Record):
    """A checkpoint beside the manifest: path relative to it, and the digest its weights must have."""

    path: str
    sha256: Digest


class TestbedRef(Record):
    """A capability of a built-in testbed, regenerated from its seed; the digest guards against drift."""

    __test__ = False  # not a pytest class

    testbed: Annotated[str, Field(pattern=r"^[a-z0-9_-]+$")]  # a name, never a file that would be imported
    seed: int
    sha256: Digest


class Manifest(Record):
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
        further_references: more of them, from other seeds.
        capability: a testbed's, or the path of a `capability.toml`.
    """

    schema_version: Literal[1] = 1
    method: str
    seed: int
    options: dict[str, bool | int | float | str] = Field(default_factory=dict)
    label_fraction: float = Field(default=1.0, ge=0, le=1)
    then: Literal["retain", "mixture"] | None = None
    costs: dict[str, Cost] = Field(default_factory=dict)
    alignment_tax: Interval | None = None
    target: CheckpointRef
    original: CheckpointRef | None = None
    reference: CheckpointRef | None = None
    further_references: list[CheckpointRef] = Field(default_factory=list)
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
