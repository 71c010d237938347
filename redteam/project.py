"""What a run is asked for: on the command line, or by the `redteam.toml` of a project."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from redteam.access import Access
from redteam.config.files import expand_path
from redteam.config.project import read_project_file
from redteam.errors import InputError

PROJECT = Path("redteam.toml")


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """A run as a user asks for it; see `redteam.suite.inputs.resolve_inputs`.

    Attributes:
        capabilities: files that say what was removed; none for what the manifest says.
    """

    target: Path
    capabilities: tuple[Path, ...] = ()
    original: Path | None = None
    reference: Path | None = None
    base: Path | None = None
    config: Path | None = None
    arch: str | None = None
    attacks: tuple[str, ...] = ()
    access: Access = Access.WEIGHTS
    budget: int = 100
    seed: int = 0
    device: str | None = None

    @property
    def one_by_one(self) -> list[dict[str, Any]]:
        """What to resolve for each capability, but for the target."""
        shared = {name: getattr(self, name) for name in self.__slots__ if name not in ("target", "capabilities")}
        return [shared | {"capability": one} for one in self.capabilities or (None,)]


def asked_for(target: Path | None, given: Mapping[str, Any]) -> Asked:
    """Returns what is asked for: without a target what `redteam.toml` says, but for what is given.

    Args:
        target: a checkpoint; None for the project's.
        given: fields of `Asked`; None for those that were not given.

    Raises:
        InputError: there is neither a target nor a project here, or the project's file cannot be read.
    """
    if target is not None:
        asked = Asked(target=target)
    elif PROJECT.is_file():
        asked = read_project(PROJECT)
    else:
        raise InputError(
            f"no checkpoint was given, and there is no {PROJECT} here", "Give one, or write that file: redteam init"
        )
    told: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in given.items() if value != []
    }
    return replace(asked, **{name: value for name, value in told.items() if value is not None})


def read_project(path: Path) -> Asked:
    """Reads a `redteam.toml`; paths in it are relative to it.

    Raises:
        InputError: it is not TOML, or not of that form.
    """
    found = read_project_file(path)
    places: dict[str, Any] = {
        name: expand_path(place, path)
        for name in ("original", "reference", "base", "config")
        if (place := getattr(found, name)) is not None
    }
    return Asked(
        target=expand_path(found.target, path),
        capabilities=tuple(expand_path(place, path) for place in found.capability),
        arch=_beside(found.arch, path) if found.arch else None,
        attacks=tuple(_beside(name, path) if ".py:" in name else name for name in found.attacks),
        access=found.access,
        budget=found.budget,
        seed=found.seed,
        **places,
    )


def _beside(place: str, path: Path) -> str:
    """Returns `FILE.py:NAME` with the file where it lies."""
    file, _, name = place.rpartition(":")
    return f"{expand_path(file, path)}:{name}"
