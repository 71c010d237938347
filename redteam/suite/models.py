"""The models that a run is about, by their role: found, and hashed once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from redteam.checkpoints.adapter_config import required_base
from redteam.checkpoints.digest import Stamps, description_digest, joined_digest, weight_files, weight_stamps
from redteam.checkpoints.hub import located, model_name
from redteam.checkpoints.identify import Kind, identify
from redteam.checkpoints.live import Live
from redteam.checkpoints.load import open_target
from redteam.config.manifest import CheckpointRef, Manifest
from redteam.config.request import InMemory, RunRequest
from redteam.errors import InputError
from redteam.evidence import keys
from redteam.target import Target

GIVEN = ("target", "original", "reference")  # the roles of models that a user gives
Found = tuple[Manifest, Path] | None  # what lies beside the target, if anything does
Hashed = Callable[[Path], tuple[Stamps, dict[str, str]]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """A checkpoint with a role.

    Attributes:
        path: of the checkpoint.
        sha256: of its weights.
        files: SHA-256 of each file of them, by name; of an adapter those of the model that it is put on too.
        description: SHA-256 of what it is opened with, its base included.
        stamps: of the same files, as they were when they were hashed.
        config: where its config is, when that is not beside it.
        arch: the function that builds it, `path/to/file.py:function`.
        base: of an adapter, the checkpoint that it is put on.
    """

    path: Path
    sha256: str
    files: Mapping[str, str]
    description: str
    stamps: Stamps
    config: Path | None = None
    arch: str | None = None
    base: Path | None = None

    @property
    def name(self) -> str:
        """The file or directory name, or the model's on the hub."""
        return model_name(self.path)

    def open(self) -> Target:
        """Loads it, and makes sure that it is still the file that the run is about.

        Raises:
            InputError: its files were changed since they were hashed, or cannot be opened.
        """
        stamps, files = _stamps(self.path, self.base), self.files
        if stamps != self.stamps and _files(self.path, self.base, _hashed) != files:
            raise InputError(f"{self.path} was changed after the run began", "Restore the file, or attack it anew")
        return open_target(self.path, config=self.config, arch=self.arch, base=self.base, known_sha256=self.sha256)


Source = Checkpoint | Live  # what a run opens by its role


def find_models(request: RunRequest, found: Found) -> dict[str, Source]:
    """Finds the models that a run is about: what is asked for first, then what the manifest beside the target says.

    Args:
        request: what is asked for.
        found: the manifest and its path.

    Raises:
        InputError: one is missing, not what the manifest says, or has a role that it cannot have.
    """
    hashed = cache(_hashed)  # roles may share a file
    places = _places(request, found)
    adapters = [role for role, place in places.items() if isinstance(place, Path) and identify(place) is Kind.ADAPTER]
    if request.base is not None and not adapters:
        raise InputError(f"--base {request.base} is given, but no model is an adapter", "Leave it out")
    models: dict[str, Source] = {}
    for role, place in places.items():
        if isinstance(place, Live):
            models[role] = place
        else:
            base = located(required_base(place, request.base)) if role in adapters else None
            models[role] = _checkpoint(place, base, request, hashed)
            if role == "target" or not getattr(request, "reference" if keys.is_reference(role) else role):
                _refuse_other(role, models[role], found)
    _refuse_shared_roles(models)
    return models


def _places(request: RunRequest, found: Found) -> dict[str, Path | Live]:
    """Returns where each model is, by role: the references one by one."""
    references = request.reference or [None] * max(1, len(_references(found)))
    asked = {"target": request.target, "original": request.original}
    asked |= {keys.reference(number): given for number, given in enumerate(references)}
    return {role: place for role, given in asked.items() if (place := _place(role, given, found)) is not None}


def _references(found: Found) -> list[CheckpointRef]:
    """Returns the references that a manifest names."""
    first = [] if found is None or found[0].reference is None else [found[0].reference]
    return [*first, *(found[0].further_references if found else ())]


def _ref(role: str, found: Found) -> CheckpointRef | None:
    """Returns what a manifest says of a role."""
    if not keys.is_reference(role):
        ref: CheckpointRef | None = getattr(found[0], role) if found else None
        return ref
    return {keys.reference(number): ref for number, ref in enumerate(_references(found))}.get(role)


def _place(role: str, given: Path | InMemory | None, found: Found) -> Path | Live | None:
    if isinstance(given, Live):
        return given
    if given is not None and not isinstance(given, Path):
        raise InputError(f"the {role} is given as {type(given).__name__}", "Give a checkpoint, or a module of torch")
    ref = _ref(role, found)
    path = given or (found[1].parent / ref.path if found and ref else None)
    if path is None:
        return None
    path = located(path)
    identify(path)
    return path


def _hashed(path: Path) -> tuple[Stamps, dict[str, str]]:
    """Returns the stamps and the digests of a checkpoint's files; the stamps first, so that no change is missed."""
    return weight_stamps(path), weight_files(path)


def _stamps(path: Path, base: Path | None) -> Stamps:
    return weight_stamps(path) + (weight_stamps(base) if base is not None else ())


def _files(path: Path, base: Path | None, hashed: Hashed) -> dict[str, str]:
    """Returns the digests of a checkpoint's files, and of the base below it: its weights are part of the model."""
    below = {} if base is None else {f"base/{name}": digest for name, digest in hashed(base)[1].items()}
    return hashed(path)[1] | below


def _checkpoint(path: Path, base: Path | None, request: RunRequest, hashed: Hashed) -> Checkpoint:
    below = None if base is None else joined_digest(base, hashed(base)[1])
    return Checkpoint(
        path=path,
        sha256=joined_digest(path, hashed(path)[1]),
        files=_files(path, base, hashed),
        description=description_digest(path, request.config, request.arch, base, below),
        stamps=hashed(path)[0] + (() if base is None else hashed(base)[0]),
        config=request.config,
        arch=request.arch,
        base=base,
    )


def _refuse_other(role: str, model: Source, found: Found) -> None:
    """Refuses a checkpoint that is not the one that the manifest was written for."""
    ref = _ref(role, found)
    if found is None or ref is None or ref.sha256 == model.sha256:
        return
    if role == "target":
        raise InputError(
            f"{model.name} is not the model that {found[1].name} was written for",
            "Build it again with `redteam unlearn`, or remove that file and give --capability",
        )
    raise InputError(
        f"{model.name} was changed after the manifest was written", f"Build it again, or give another --{role}"
    )


def _refuse_shared_roles(models: Mapping[str, Source]) -> None:
    """Refuses a reference that is one of the other models: whatever is attacked would look like it never knew.

    One that is given twice says nothing of how such models differ.
    """
    seen = {models[role].sha256: role for role in ("target", "original") if role in models}
    for role, model in models.items():
        if not keys.is_reference(role):
            continue
        if (other := seen.setdefault(model.sha256, role)) != role:
            if keys.is_reference(other):
                raise InputError(f"one reference is given twice ({model.name})", "Give others, each trained by itself")
            raise InputError(
                f"the reference is the {other} ({model.name})", "Give a model that never had the capability"
            )
