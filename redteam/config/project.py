"""`redteam.toml`: what a run is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field

from redteam.access import Access
from redteam.config.files import listed, read_toml, validated
from redteam.record import Record


class ProjectFile(Record):
    """`redteam.toml`: what `redteam attack` is asked for where it is given no checkpoint.

    Attributes:
        target: the checkpoint. `$NAME` in a path is taken from the environment.
        capability: files that say what was removed, or one; none for what the manifest beside the target says.
        original: the model before unlearning.
        reference: a model that never had the capability.
        base: of a PEFT adapter, the model that it was trained on.
        config: a config.json, if none lies beside the target.
        arch: `FILE.py:FUNCTION` that builds a classifier.
        attacks: by name, or `FILE.py:CLASS`; none for all.
        access: what the adversary has.
        budget: search trials on the target.
        seed: of the run.
    """

    target: str = Field(min_length=1)
    capability: Annotated[list[str], BeforeValidator(listed)] = Field(default_factory=list)
    original: str | None = None
    reference: str | None = None
    base: str | None = None
    config: str | None = None
    arch: str | None = None
    attacks: list[str] = Field(default_factory=list)
    access: Access = Access.WEIGHTS
    budget: int = Field(default=100, ge=1)
    seed: int = 0


def read_project_file(path: Path) -> ProjectFile:
    """Reads a `redteam.toml`.

    Raises:
        InputError: it is missing, not TOML, or not of this form.
    """
    return validated(ProjectFile, read_toml(path, "Write it again: redteam init"), path)
