"""The identity of a checkpoint: SHA-256 of its weight bytes on disk."""

from __future__ import annotations

import hashlib
from pathlib import Path

from redteam.errors import InputError


def weights_digest(path: Path) -> str:
    r"""Returns the SHA-256 of a checkpoint's weights as 64 hex digits.

    Args:
        path: a file: the digest of its bytes. A directory: the digest of the sorted lines "NAME SHA256\n" of all
            `*.safetensors` files directly in it. Configuration and tokenizer beside weights do not count.

    Raises:
        InputError: it cannot be read, or it is a directory without weights.
    """
    try:
        if not path.is_dir():
            return _file_digest(path)
        files = sorted(path.glob("*.safetensors"), key=lambda file: file.name)
        if not files:
            raise InputError(f"{path} has no *.safetensors files", "Give a checkpoint")
        lines = "".join(f"{file.name} {_file_digest(file)}\n" for file in files)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})", "Check the path") from error
    return hashlib.sha256(lines.encode()).hexdigest()


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
