"""The sidecar manifest of a checkpoint: where it lies, reading and writing it."""

from __future__ import annotations

from pathlib import Path

from redteam.atomic import write
from redteam.config.manifest import Manifest, read_manifest


def manifest_path(checkpoint: Path) -> Path:
    """Returns where a checkpoint's manifest lies: `model.redteam.json`, or `redteam.json` in a directory."""
    if checkpoint.is_dir():
        return checkpoint / "redteam.json"
    return checkpoint.with_suffix(".redteam.json")


def open_manifest(path: Path) -> tuple[Manifest, Path] | None:
    """Reads the manifest of the checkpoint `path`.

    Returns:
        The manifest and its own path, relative to whose directory its references are; None if there is none.

    Raises:
        InputError: it is not JSON, or not of the expected form.
    """
    sidecar = manifest_path(path)
    return (read_manifest(sidecar), sidecar) if sidecar.exists() else None


def write_manifest(checkpoint: Path, manifest: Manifest) -> Path:
    """Writes the manifest beside (or into) a checkpoint that exists, atomically.

    Returns:
        The path of the manifest.

    Raises:
        InputError: the place cannot be written.
    """
    sidecar = manifest_path(checkpoint)
    write(sidecar, manifest.model_dump_json(indent=2) + "\n")
    return sidecar
