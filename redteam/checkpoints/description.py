"""Configs and tokenizers of transformers from files that nobody vouches for: no code, no network."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import CONFIG_MAPPING, AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase

from redteam.checkpoints.untrusted import TOKENIZER_FILES, read_json, without_code
from redteam.errors import InputError

LANGUAGE, PICTURES = ("num_hidden_layers", "hidden_size", "vocab_size"), ("num_labels",)  # sizes that configs must have


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
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(directory), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the tokenizer library raises bare exceptions
        raise InputError(
            f"the tokenizer in {directory} cannot be loaded ({str(error)[:200]})", "Write it again"
        ) from error
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise InputError(f"{directory} holds no tokenizer that transformers knows", "Write it again")
    return tokenizer


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
