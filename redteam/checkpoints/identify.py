"""What a path holds, told by its content: a name promises nothing.

Everything that is not one of the accepted forms is refused with one line that says what was found.
"""

from __future__ import annotations

import os
import stat
import zipfile
from enum import Enum
from pathlib import Path

from redteam.checkpoints.gguf_header import MAGIC, read_gguf
from redteam.checkpoints.header import read_header, starts_like_safetensors
from redteam.checkpoints.shards import ADAPTER_CONFIG, ADAPTER_WEIGHTS, SINGLE, WEIGHTS, shard_paths
from redteam.errors import InputError

DOWNLOAD_AGAIN = "Download or copy the file itself again"
SAVE_WEIGHTS = "Save the weights alone: torch.save(model.state_dict(), path)"

# First bytes of files that people hand over by mistake: (prefix, what it is, remedy).
SIGNATURES = (
    (
        b"version https://git-lfs",
        "a Git LFS pointer, not the file it points to",
        "Fetch the content: git lfs pull",
    ),
    (b"\x89HDF", "an HDF5 file", "Give a PyTorch checkpoint: .safetensors or a state dict"),
    (b"\x93NUMPY", "a NumPy array", "Give a PyTorch checkpoint: .safetensors or a state dict"),
    (b"\x1f\x8b", "gzip-compressed", "Unpack it first"),
    (b"<?xml", "an XML page, probably an error message of a download", DOWNLOAD_AGAIN),
    (b"{", "a JSON file", "Give the directory that it lies in"),
)


OTHERS = (".safetensors", ".bin", ".pt", ".pth", ".gguf")  # names of files that are given by themselves
MAX_TABLE = 4 * 2**20  # bytes of the table of a zip archive: forty thousand tensors. Parsed it takes ten times as much

# The first pickle of a file that torch wrote before version 1.6: its magic number, 0x1950a86a20f9469cfc6c.
LEGACY_MAGIC = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."


class Kind(Enum):
    """The forms of checkpoint that can be opened."""

    DIRECTORY = "a Hugging Face directory"
    ADAPTER = "a PEFT adapter"
    SAFETENSORS = "a safetensors file"
    TORCH = "a torch zip archive"
    LEGACY = "a torch file from before version 1.6"
    GGUF = "a GGUF file"


def identify(path: Path) -> Kind:
    """Tells what a checkpoint is from its content. Links to files and directories are followed.

    Args:
        path: a file or a directory.

    Raises:
        InputError: it is none of the accepted forms, or it is damaged in a way that shows without loading it.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError as error:
        if path.is_symlink():
            raise InputError(
                f"{path} is a link to {os.readlink(path)}, which does not exist", "Restore the file it names"
            ) from error
        raise InputError(f"there is no checkpoint {path}", "Check the path") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})", "Check the path") from error
    if stat.S_ISDIR(mode):
        return _identify_directory(path)
    if not stat.S_ISREG(mode):
        raise InputError(f"{path} is not a regular file but a device, pipe or socket", "Give a file")
    return _identify_file(path)


def _identify_directory(path: Path) -> Kind:
    try:
        names = {entry.name for entry in path.iterdir()}
    except OSError as error:
        raise InputError(f"{path} cannot be listed ({error.strerror})", "Check its permissions") from error
    adapter = ADAPTER_CONFIG in names
    if not adapter and not names & set(WEIGHTS):
        others = sorted(name for name in names if name.endswith(OTHERS))
        if others:
            raise InputError(f"{path} has no {SINGLE}, but {others[0]}", "Give that file itself")
    if not adapter and "config.json" not in names:
        raise InputError(f"{path} is a directory without config.json", "Give a directory written by save_pretrained")
    if adapter and not names & set(ADAPTER_WEIGHTS):
        raise InputError(f"{path} has an {ADAPTER_CONFIG} but no {ADAPTER_WEIGHTS[0]}", "Copy the whole adapter")
    if not adapter and not names & set(WEIGHTS):
        raise InputError(f"{path} has a config.json but no weights", f"Put {SINGLE} beside it")
    for shard in shard_paths(path):
        if not os.path.isfile(shard):  # unlike Path.is_file it raises nothing, whatever the name is
            raise InputError(f"{shard} is missing, but the index names it", "Copy the whole directory again")
        if shard.suffix == ".safetensors":
            read_header(shard)
        elif _identify_file(shard) not in (Kind.TORCH, Kind.LEGACY):
            raise InputError(f"{shard} is not what torch.save writes", "Write the model again with save_pretrained")
    return Kind.ADAPTER if adapter else Kind.DIRECTORY


def _identify_file(path: Path) -> Kind:
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})", "Check its permissions") from error
    if not head:
        raise InputError(f"{path} is empty", DOWNLOAD_AGAIN)
    if head.startswith(b"PK\x03\x04"):
        _refuse_other_zips(path)
        return Kind.TORCH
    if starts_like_safetensors(head):
        read_header(path)
        return Kind.SAFETENSORS
    if head.startswith(MAGIC):
        read_gguf(path)
        return Kind.GGUF
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head")):
        raise InputError(f"{path} is an HTML page, not a checkpoint", DOWNLOAD_AGAIN)
    if head.startswith(LEGACY_MAGIC):
        return Kind.LEGACY
    if head[0] == 0x80 and len(head) > 1 and 2 <= head[1] <= 5:  # protocols of pickle
        raise InputError(f"{path} is a pickle, which runs code when it is loaded", SAVE_WEIGHTS)
    for prefix, what, remedy in SIGNATURES:
        if head.startswith(prefix):
            raise InputError(f"{path} is {what}", remedy)
    raise InputError(
        f"{path} is no checkpoint that redteam knows (first bytes {head[:8].hex(' ')})",
        "Give a Hugging Face directory, a .safetensors or .gguf file or a torch state dict",
    )


def zip_table(path: Path) -> tuple[int, int]:
    """Returns where the table of contents of a zip archive begins and how long it is, as the end of the file says.

    Raises:
        InputError: the file does not end like an archive of torch.save, or its table is longer than a checkpoint's.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, size - 98))
        end = file.read()
    length, begin = int.from_bytes(end[-10:-6], "little"), int.from_bytes(end[-6:-2], "little")
    if end[-42:-38] == b"PK\6\7":  # the same again, in numbers that are large enough for large files
        larger = int.from_bytes(end[-58:-50], "little"), int.from_bytes(end[-50:-42], "little")
        alike = all(small in (large, 2**32 - 1) for small, large in zip((length, begin), larger, strict=True))
        if not alike or int.from_bytes(end[-34:-26], "little") != size - 98:
            raise InputError(f"{path} names two tables of contents", DOWNLOAD_AGAIN)
        length, begin = larger
    if end[-22:-18] != b"PK\5\6" or end[-2:] != b"\0\0":
        raise InputError(f"{path} is a truncated or damaged zip archive", DOWNLOAD_AGAIN)
    if length > MAX_TABLE:
        raise InputError(f"{path} has a table of contents of {length} bytes", SAVE_WEIGHTS)
    return begin, length


def _refuse_other_zips(path: Path) -> None:
    """Lets only zips pass that `torch.save` could have written."""
    zip_table(path)
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except Exception as error:  # zipfile raises whatever its parser stumbles over in hostile bytes
        raise InputError(f"{path} is a truncated or damaged zip archive", DOWNLOAD_AGAIN) from error
    root = names[0].split("/")[0] if names else ""
    last = {name.rsplit("/", 1)[-1] for name in names}
    if last & {"archive_format", "serialized_exported_program.json"}:
        raise InputError(f"{path} is a .pt2 archive of torch.export, a program", SAVE_WEIGHTS)
    if f"{root}/constants.pkl" in names:
        raise InputError(f"{path} is a TorchScript archive, a program", SAVE_WEIGHTS)
    if f"{root}/data.pkl" not in names:
        raise InputError(f"{path} is a zip archive, but no checkpoint", "Unpack it and give what is inside")
