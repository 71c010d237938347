"""JSON files that nobody vouches for, beside weights: read, and rid of what asks for code. Needs no library."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from redteam.checkpoints.quantised import KEY as QUANTISED
from redteam.checkpoints.quantised import refuse_method
from redteam.errors import InputError

# Keys that make transformers import code, or read weights from another place than the checkpoint.
REFUSED = {
    "auto_map": "asks for code of its own (auto_map), which is never run",
    "trust_remote_code": "asks for code of its own (trust_remote_code), which is never run",
    "transformers_weights": "redirects to other weight files (transformers_weights)",
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
# How the classes of transformers end that classify images, and texts.
PICTURES, TEXTS = "ForImageClassification", "ForSequenceClassification"
KEY = "redteam_architecture"  # of a classifier's description, in a config.json
MAX_TEXT = 10_000  # characters of a description
NESTED = 100  # levels of JSON; what walks through them by recursion has a thousand
DENSE = 8 * 2**20  # bytes that a text may take once it is parsed, beyond three times its own
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")


def load_json(text: bytes) -> Any:
    """Parses JSON. What it is made of takes three times its size at most, and a constant.

    Raises:
        ValueError: it is no JSON, nests deeply, or is made of so many small parts that they would take far more.
    """
    containers, strings = text.count(b"[") + text.count(b"{"), text.count(b'"') // 2
    if 80 * containers + 60 * strings + 8 * text.count(b",") > 3 * len(text) + DENSE:
        raise ValueError("it is made of too many small parts")
    try:
        data = json.loads(text)
    except RecursionError as error:
        raise ValueError("it nests too deeply") from error
    level = [data]
    for _ in range(NESTED):
        level = [part for held in level for part in _parts(held)]
    if level:
        raise ValueError("it nests too deeply")
    return data


def _parts(held: Any) -> Iterable[Any]:
    return held.values() if isinstance(held, dict) else held if isinstance(held, list) else ()


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        InputError: it cannot be read, or is no JSON object.
    """
    try:
        data = load_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is not readable JSON ({error})", "Copy or write it again") from error
    if not isinstance(data, dict):
        raise InputError(f"{path} is not a JSON object", "Copy or write it again")
    return data


def without_code(data: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Returns a copy without choices of kernels, at any depth, and without what it says of quantised weights.

    Raises:
        InputError: a key asks for code or other weights; older releases of transformers obeyed some of them
            whatever the caller said (CVE-2026-5241). Or weights are quantised in a way that cannot be read.
    """
    clean: dict[str, Any] = {}
    for key, value in data.items():
        if key in REFUSED and value:
            raise InputError(f"{where} {REFUSED[key]}", "Give a model that transformers itself implements")
        if key == QUANTISED and value:
            refuse_method(value, where)
        if key not in (*DROPPED, QUANTISED):
            clean[key] = without_code(value, where) if isinstance(value, dict) else value
    return clean


def parse_description(text: Any, where: str) -> dict[str, Any]:
    """Reads a description from the text in a checkpoint.

    Raises:
        InputError: it is no JSON object, or too long.
    """
    try:
        description = json.loads(text) if isinstance(text, str) and len(text) <= MAX_TEXT else None
    except (ValueError, RecursionError):
        description = None
    if not isinstance(description, dict):
        raise InputError(f"{where} is no readable description of an architecture", "Write it again with redteam")
    return description


def classifies_images(data: Mapping[str, Any]) -> bool:
    """Returns whether a config describes a classifier of images."""
    return _is_named(data, PICTURES)


def classifies_texts(data: Mapping[str, Any]) -> bool:
    """Returns whether a config describes a classifier of texts."""
    return _is_named(data, TEXTS)


def _is_named(data: Mapping[str, Any], ending: str) -> bool:
    named = data.get("architectures")
    return isinstance(named, list) and any(str(name).endswith(ending) for name in named)
