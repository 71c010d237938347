"""Configs and tokenizers of transformers from files that nobody vouches for: no code, no network."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import CONFIG_MAPPING, AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase

from redteam.errors import InputError

# Keys that make transformers import code, or read weights from another place than the checkpoint.
REFUSED = {
    "auto_map": "asks for code of its own (auto_map), which is never run",
    "trust_remote_code": "asks for code of its own (trust_remote_code), which is never run",
    "transformers_weights": "redirects to other weight files (transformers_weights)",
    "quantization_config": "describes quantised weights (quantization_config)",
}
# Choices of kernels are the machine's, not the model's, and some name code on a hub.
DROPPED = {
    "attn_implementation",
    "_attn_implementation",
    "_attn_implementation_internal",
    "_attn_implementation_autoset",
    "experts_implementation",
    "_experts_implementation",
    "_experts_implementation_internal",
    "use_kernels",
    "_name_or_path",
}
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        InputError: it cannot be read, or is no JSON object.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} is not readable JSON ({error})", "Copy or write it again") from error
    if not isinstance(data, dict):
        raise InputError(f"{path} is not a JSON object", "Copy or write it again")
    return data


def build_config(data: Mapping[str, Any], where: str) -> PreTrainedConfig:
    """Builds the config of a causal language model.

    Args:
        data: what config.json holds.
        where: it came from, for messages.

    Raises:
        InputError: it asks for code, is of an unknown or unsuitable kind, or has values that make no sense.
    """
    clean = _without_code(data, where)
    kind = clean.pop("model_type", None)
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
        raise InputError(
            f"{where} is of model_type {kind!r}, which transformers does not know",
            "Give the config.json of a causal language model, or upgrade transformers",
        )
    try:
        config = AutoConfig.for_model(kind, **clean)
        sizes = [config.num_hidden_layers, config.hidden_size, config.vocab_size]
    except Exception as error:  # every config class checks its values in its own way
        raise InputError(f"{where} is no usable config of a {kind} model ({str(error)[:200]})", "Correct it") from error
    if not all(isinstance(size, int) and size > 0 for size in sizes):
        raise InputError(f"{where} has sizes that are not positive numbers: {sizes}", "Correct it")
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
            _without_code(read_json(directory / name), str(directory / name))
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


def _without_code(data: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Returns a copy without choices of kernels, at any depth.

    Raises:
        InputError: a key asks for code or other weights; older releases of transformers obeyed some of them
            whatever the caller said (CVE-2026-5241).
    """
    clean: dict[str, Any] = {}
    for key, value in data.items():
        if key in REFUSED and value:
            raise InputError(f"{where} {REFUSED[key]}", "Give a model that transformers itself implements, unquantised")
        if key not in DROPPED:
            clean[key] = _without_code(value, where) if isinstance(value, dict) else value
    return clean
