"""The identity of a checkpoint: SHA-256 of its weight bytes on disk, and of what says how to read them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from redteam.checkpoints.shards import ADAPTER_CONFIG, ADAPTER_WEIGHTS, BIN, BIN_INDEX, shard_paths
from redteam.errors import InputError

# What transformers reads a config and a tokenizer from.
DESCRIPTION = (
    "config.json",
    "preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "chat_template.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "tokenizer.model",
)


Stamps = tuple[tuple[str, int, int, int, int], ...]


def weights_digest(path: Path) -> str:
    r"""Returns the SHA-256 of a checkpoint's weights as 64 hex digits.

    Args:
        path: a file: the digest of its bytes. A directory: the digest of the sorted lines "NAME SHA256\n" of its
            `weight_files`. Configuration and tokenizer beside weights do not count.

    Raises:
        InputError: it cannot be read, or it is a directory without weights.
    """
    return joined_digest(path, weight_files(path))


def joined_digest(path: Path, files: Mapping[str, str]) -> str:
    """Returns the digest of a checkpoint from those of its `weight_files`."""
    if not path.is_dir():
        return files[path.name]
    return hashlib.sha256("".join(f"{name} {digest}\n" for name, digest in files.items()).encode()).hexdigest()


def weight_files(path: Path) -> dict[str, str]:
    """Returns the SHA-256 of each file of a checkpoint's weights by its name, sorted.

    Args:
        path: a file; or a directory: all `*.safetensors` files directly in it, or its weight files of torch.save if
            it is opened from those.

    Raises:
        InputError: they cannot be read, or it is a directory without weights.
    """
    try:
        return {file.name: _file_digest(file) for file in _weight_paths(path)}
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})", "Check the path") from error


def weight_stamps(path: Path) -> Stamps:
    """Returns what the file system says of each of the `weight_files` of a checkpoint, by which a change shows.

    Name, size, place on the disk, and when content and entry were changed last, in nanoseconds. Tools put the first of
    these times back, and none can set the second. While all are the same, the content need not be hashed again.

    Raises:
        InputError: as `weight_files`.
    """
    try:
        found = [(file.name, file.stat()) for file in _weight_paths(path)]
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})", "Check the path") from error
    return tuple((name, told.st_size, told.st_ino, told.st_mtime_ns, told.st_ctime_ns) for name, told in found)


def _weight_paths(path: Path) -> list[Path]:
    """Returns the files that hold a checkpoint's weights, sorted by name."""
    if not path.is_dir():
        return [path]
    files = sorted(path.glob("*.safetensors"), key=lambda file: file.name)
    if any((path / name).is_file() for name in (BIN, BIN_INDEX, *ADAPTER_WEIGHTS)):
        opened = shard_paths(path)  # other safetensors may lie beside them
        files = files if opened[0].suffix == ".safetensors" else opened
    if not files:
        raise InputError(f"{path} has no weight files", "Give a checkpoint")
    return files


def description_digest(
    path: Path,
    config: Path | None = None,
    arch: str | None = None,
    base: Path | None = None,
    base_sha256: str | None = None,
) -> str:
    """Returns the SHA-256 of the config and tokenizer files, or the source, that a checkpoint is opened with.

    The same weights under another config or tokenizer are another model. What a self-contained `.pt` carries in it is
    part of its `weights_digest`.

    Args:
        path: of the checkpoint.
        config: a config.json, or the directory of one, if it is not beside the checkpoint.
        arch: `path/to/file.py:function`, if a function builds the model: that one file counts, not what it imports.
        base: of an adapter: its weights and what it is opened with count too; `config` is that one's then.
        base_sha256: digest of the base's weights, where it is known.

    Raises:
        InputError: a file cannot be read.
    """
    if arch is not None:
        source, _, function = arch.rpartition(":")
        return hashlib.sha256(f"{function} {weights_digest(Path(source))}\n".encode()).hexdigest()
    if base is not None:
        below = base_sha256 or weights_digest(base)
        parts = weights_digest(path / ADAPTER_CONFIG), below, description_digest(base, config)
        return hashlib.sha256(f"{' '.join(parts)}\n".encode()).hexdigest()
    place = config or (path if path.is_dir() else path.parent)
    given = [place] if place.is_file() else []
    folder = place.parent if given else place
    files = {*given, *(folder / name for name in DESCRIPTION)}
    try:
        lines = "".join(f"{file.name} {_file_digest(file)}\n" for file in sorted(files) if file.is_file())
    except OSError as error:
        raise InputError(f"{folder} cannot be read ({error.strerror})", "Check its permissions") from error
    return hashlib.sha256(lines.encode()).hexdigest()


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
