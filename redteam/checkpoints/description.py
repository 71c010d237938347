"""Configs and tokenizers of transformers from files that nobody vouches for: no code, no network."""

from __future__ import annotations

import re
import tempfile
from base64 import b64decode
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from transformers import CONFIG_MAPPING, AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase

from redteam.checkpoints.quiet import quiet_process
from redteam.checkpoints.untrusted import TOKENIZER_FILES, read_json, without_code
from redteam.errors import InputError

LANGUAGE, PICTURES = ("num_hidden_layers", "hidden_size", "vocab_size"), ("num_labels",)  # sizes that configs must have
LABELLED = (*LANGUAGE, *PICTURES)  # of texts that are classified
CHARSMAP = re.compile(rb'"precompiled_charsmap"\s*:\s*"([^"]*)"')
COUNTED = re.compile(r"num_|n_layer|layers|depth")
MAX_COUNT = 30_000  # of anything that a config counts; the largest known are labels


def build_config(data: Mapping[str, Any], where: str, sizes: tuple[str, ...] = LANGUAGE) -> PreTrainedConfig:
    """Builds the config of a causal language model, or of another with such sizes.

    Args:
        data: what config.json holds.
        where: it came from, for messages.
        sizes: names of what must be positive numbers.

    Raises:
        InputError: it asks for code, is of an unknown or unsuitable kind, or has values that make no sense.
    """
    clean = without_code(data, where)
    _refuse_counts(clean, where)
    kind = clean.pop("model_type", None)
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
        raise InputError(
            f"{where} is of model_type {kind!r}, which transformers does not know",
            "Give the config.json of a causal language model, or upgrade transformers",
        )
    try:
        config = AutoConfig.for_model(kind, **clean)
        found = [getattr(config, name) for name in sizes]
    except Exception as error:  # every config class checks its values in its own way
        raise InputError(f"{where} is no usable config of a {kind} model ({str(error)[:200]})", "Correct it") from error
    if not all(isinstance(size, int) and size > 0 for size in found):
        raise InputError(f"{where} has sizes that are not positive numbers: {found}", "Correct it")
    return config


def _refuse_counts(data: Mapping[str, Any], where: str) -> None:
    """Refuses numbers of layers, labels and the like that nothing has: configs make a list of as many elements."""
    for key, value in data.items():
        if isinstance(value, dict):
            _refuse_counts(value, where)
        for number in value if isinstance(value, list) else [value]:
            if COUNTED.search(key) and isinstance(number, int | float) and number > MAX_COUNT:
                counted = key.removeprefix("num_").removeprefix("hidden_")[:80]
                raise InputError(f"{where} describes {str(number)[:40]} {counted}", "Correct it")


def load_tokenizer(directory: Path) -> PreTrainedTokenizerBase:
    """Loads the tokenizer whose files lie in `directory`.

    Raises:
        InputError: there is none, it asks for code, or it cannot be loaded.
    """
    if not any((directory / name).is_file() for name in TOKENIZER_FILES):
        raise InputError(
            f"there is no tokenizer in {directory}",
            "Put tokenizer.json and tokenizer_config.json there: tokenizer.save_pretrained(directory)",
        )
    for name in ("tokenizer_config.json", "config.json"):
        if (directory / name).is_file():
            without_code(read_json(directory / name), str(directory / name))

    def load() -> Any:
        _refuse_charsmap(directory / "tokenizer.json")
        return AutoTokenizer.from_pretrained(str(directory), local_files_only=True, trust_remote_code=False)

    return checked_tokenizer(load, str(directory))


def checked_tokenizer(load: Callable[[], Any], where: str, remedy: str = "Write it again") -> PreTrainedTokenizerBase:
    """Returns the tokenizer that `load` returns, with nothing written to the terminal.

    Args:
        load: makes it of files that nobody vouches for.
        where: they are, for messages.
        remedy: what to do if it cannot.

    Raises:
        InputError: it raises, or returns something else.
    """
    try:
        with quiet_process():
            tokenizer = load()
    except BaseException as error:
        # The tokenizer library raises bare exceptions; where its Rust gives up, one that is no Exception.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise InputError(f"the tokenizer in {where} cannot be loaded ({str(error)[:200]})", remedy) from error
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise InputError(f"{where} holds no tokenizer that transformers knows", remedy)
    return tokenizer


def _refuse_charsmap(file: Path) -> None:
    """Refuses a table of characters that is shorter than it says.

    The tokenizer library makes room for as much as it says, and ends the process where there is not so much.

    Raises:
        ValueError: it is shorter, or no base64.
    """
    for encoded in CHARSMAP.findall(file.read_bytes()) if file.is_file() else ():
        table = b64decode(encoded)
        if len(table) < 4 + int.from_bytes(table[:4], "little"):
            raise ValueError("its table of characters is cut off")


def tokenizer_from_text(files: Mapping[str, str], path: Path) -> PreTrainedTokenizerBase:
    """Loads a tokenizer from the text of its files.

    Args:
        files: text by plain file name.
        path: the checkpoint they were in, for messages.

    Raises:
        InputError: as for `load_tokenizer`, naming the checkpoint.
    """
    with tempfile.TemporaryDirectory(prefix="redteam-") as folder:
        for name, text in files.items():
            (Path(folder) / name).write_text(text, encoding="utf-8")
        try:
            tokenizer = load_tokenizer(Path(folder))
        except InputError as error:
            raise InputError(error.found.replace(folder, str(path)), error.remedy) from error
    tokenizer.name_or_path = str(path)
    return tokenizer
