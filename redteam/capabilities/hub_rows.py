"""Rows of a data set of the Hugging Face hub: `hf://datasets/org/name@COMMIT?config=NAME&split=NAME`.

Its files are fetched by the hub's own client, which honours its cache and `HF_HUB_OFFLINE`, and are read by the library
`datasets` from there. Asked for a name while it is offline, that library takes whatever revision it has seen last.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from redteam.capabilities.libraries import library, quiet_datasets
from redteam.capabilities.parquet import refuse_inflated
from redteam.errors import InputError, one_line

START = "hf://"
ADDRESS = re.compile(
    r"hf://datasets/(?P<name>\w[\w.-]{0,95}/\w[\w.-]{0,95})(@(?P<revision>[^?]{1,200}))?(\?(?P<asked>.{1,500}))?"
)
FORM = "hf://datasets/org/name@COMMIT?config=NAME&split=NAME"
COMMIT = re.compile(r"[0-9a-f]{40}")
WANTED = tuple(
    f"*.{kind}{packed}" for kind in ("parquet", "json", "jsonl", "csv", "tsv") for packed in ("", ".gz", ".zst")
)
MOST_ROWS = 1_000_000


def dataset_rows(address: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields the rows of a data set, counted from 0.

    Raises:
        InputError: the address is malformed or names no commit, neither hub nor cache has it, it is a program, or its
            files are damaged; or `datasets` is not installed.
    """
    name, revision, asked = _read(address)
    folder = _fetched(name, revision)
    script = f"{name.rpartition('/')[2]}.py"
    if (folder / script).exists():
        raise InputError(f"{name} is a program, {script}", "Name a data set that consists of data files")
    yield from folder_rows(folder, address, **asked)


def folder_rows(
    folder: Path, called: str, *, split: str, config: str | None = None
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields the rows of a directory of data files, laid out as one of the hub is, counted from 0.

    Args:
        folder: with a card (`README.md`) that says what its configs and splits are, or without.
        called: what people call it.
        split: for example "test".
        config: where it has several.

    Raises:
        InputError: it has no such split or config, or its files are damaged.
    """
    datasets = library("datasets", "datasets", called)
    refuse_inflated(sorted(folder.rglob("*.parquet")))
    number = -1
    try:
        with quiet_datasets():
            # Streamed: read from the files as they are, and nothing is put into a second cache.
            rows = datasets.load_dataset(str(folder), config, split=split, streaming=True)
            said = (rows.info.splits or {}).get(split)
            for number, row in enumerate(rows.decode(False) if rows.features else rows):
                if number >= MOST_ROWS:
                    raise InputError(f"{called} has more than {MOST_ROWS} rows", "Name a smaller split")
                yield number, row
    except InputError:
        raise
    except Exception as error:  # of the library, and of the parsers behind it
        raise InputError(
            f"{called} cannot be read ({_said(error)})", "Check config and split against the data set's page"
        ) from error
    if said is not None and said.num_examples and said.num_examples != number + 1:
        raise InputError(
            f"{called} has {number + 1} rows, its card says {said.num_examples}", "Fetch it again, or check the card"
        )


def _read(address: str) -> tuple[str, str, dict[str, str]]:
    """Returns the name, the commit, and which config and split."""
    match = ADDRESS.fullmatch(address)
    if match is None:
        raise InputError(f"{address} is no address of a data set", f"Write it as {FORM}")
    if match["revision"] is None or not COMMIT.fullmatch(match["revision"]):
        raise InputError(
            f"{address} names no commit",
            f"Give its whole hash, since a branch or a tag moves: {FORM}",
        )
    try:
        asked = {key: value for key, (value,) in parse_qs(match["asked"] or "", strict_parsing=True).items()}
    except ValueError:  # also of a key that is given twice
        asked = {}
    if "split" not in asked or not asked.keys() <= {"split", "config"}:
        raise InputError(f"{address} does not say which split, or says more", f"Write it as {FORM}")
    return match["name"], match["revision"], asked


def _fetched(name: str, revision: str) -> Path:
    """Returns the directory in the client's cache; of code the one script that would show that it is a program."""
    from huggingface_hub import snapshot_download

    wanted = ["README.md", ".huggingface.yaml", f"{name.rpartition('/')[2]}.py", *WANTED]
    try:
        return Path(snapshot_download(name, repo_type="dataset", revision=revision, allow_patterns=wanted))
    except Exception as error:  # of the hub, of the network, of the cache
        raise InputError(
            f"{name} cannot be had from the hub ({_said(error)})", "Check name, commit and access, or name files"
        ) from error


def _said(error: Exception) -> str:
    return one_line(str(error).splitlines()[0] if str(error) else type(error).__name__)[:200]
