"""A cache of the Hugging Face hub as its client lays it out, with data sets in it; no test reaches a network."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import huggingface_hub
import pytest

COMMIT, OTHER = "0123456789abcdef0123456789abcdef01234567", "f" * 40


def offline_cache(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Tells the client, and nothing else, that its cache is there and that it has no network."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(place))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return place


def put_into_cache(cache: Path, repository: Path, commit: str = COMMIT) -> Path:
    """Lays a directory into a cache as the hub's client does: files by content, links to them."""
    home = cache / "datasets--org--quiz"
    snapshot, blobs = home / "snapshots" / commit, home / "blobs"
    for folder in (snapshot, blobs, home / "refs"):
        folder.mkdir(parents=True, exist_ok=True)
    for file in (file for file in sorted(repository.rglob("*")) if file.is_file()):
        blob, link = blobs / f"{len(list(blobs.iterdir())):040x}", snapshot / file.relative_to(repository)
        shutil.copy(file, blob)
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    (home / "refs" / "main").write_text(OTHER)
    return snapshot
