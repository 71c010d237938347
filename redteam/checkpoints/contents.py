"""What a loaded torch archive holds: the state dict and, in our own format, the model's description."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from redteam.checkpoints.untrusted import load_json
from redteam.errors import InputError, one_line

FORMAT = "redteam-checkpoint-1"
STATE_KEYS = ("model", "state_dict", "model_state_dict")
PREFIXES = ("module.", "_orig_mod.")  # left by DistributedDataParallel and torch.compile
FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Contents:
    """A checkpoint in one file.

    Attributes:
        state: the state dict, prefixes of wrappers stripped; dtypes as stored.
        config: what a config.json would hold, if the file is self-contained.
        tokenizer: text of the tokenizer's files by file name, if the file is a self-contained language model.
        architecture: text of a classifier's description, if the file is self-contained; not yet read.
    """

    state: dict[str, Tensor]
    config: dict[str, Any] | None = None
    tokenizer: dict[str, str] | None = None
    architecture: Any = None


def read_contents(loaded: Any, path: Path) -> Contents:
    """Finds the state dict in what `torch.load` returned, and the extras of our own format.

    Args:
        loaded: a state dict, or a mapping with one under "model", "state_dict" or "model_state_dict".
        path: of the file, for messages.

    Raises:
        InputError: there is no state dict, or the extras are malformed.
    """
    state = strip_prefix(_find_state(loaded, path))
    marker = loaded.get("format")
    if not isinstance(marker, str) or not marker.startswith("redteam-checkpoint-"):
        return Contents(state=state)
    if marker != FORMAT:
        raise InputError(f"{path} is written in {marker}, this redteam reads {FORMAT}", "Upgrade redteam")
    if "architecture" in loaded:
        return Contents(state=state, architecture=loaded["architecture"])
    try:
        config = load_json(loaded["config"].encode())
    except (KeyError, AttributeError, ValueError) as error:
        raise InputError(f"{path} has no readable config in it", "Write it again with redteam") from error
    files = loaded.get("tokenizer")
    if not isinstance(config, dict) or not _is_text_by_name(files):
        raise InputError(f"{path} has a malformed config or tokenizer in it", "Write it again with redteam")
    return Contents(state=state, config=config, tokenizer=files)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Loads a safetensors file whose header has been checked.

    Raises:
        InputError: it has tensors that torch does not know or cannot hold.
    """
    try:
        return load_file(path)
    except Exception as error:  # the library raises its own errors, and torch's
        why = one_line(str(error).partition("\n")[0])[:200]
        raise InputError(f"{path} holds tensors that torch cannot hold ({why})", "Save the weights again") from error


def strip_prefix(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the state dict without the prefixes that wrappers put before every name."""
    stripped = dict(state)
    while prefix := next((p for p in PREFIXES if all(name.startswith(p) for name in stripped)), None):
        stripped = {name.removeprefix(prefix): tensor for name, tensor in stripped.items()}
        if "" in stripped:
            break
    return stripped


def named_as(wanted: Collection[str], state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Returns the state dict under a model's own names, where a trainer held the model as one of its attributes.

    Lightning saves `self.model` as "model.layer.weight", others call it "net". A first part that all names share is
    taken off as long as none of them is a name of the model; names that fit as they are stay.

    Args:
        wanted: names of the model.
        state: tensors by the names in the file.
    """
    found = dict(state)
    while not any(name in wanted for name in found):
        firsts = {name.partition(".")[0] for name in found}
        if len(firsts) != 1 or not all("." in name for name in found):
            return state
        found = {name.partition(".")[2]: tensor for name, tensor in found.items()}
    return found


def as_float32(state: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Returns contiguous copies that own their memory, floating-point ones in float32.

    Raises:
        InputError: a tensor is complex or of a quantised floating type.
    """
    copies = {}
    for name, tensor in state.items():
        if tensor.is_complex() or (tensor.is_floating_point() and tensor.dtype not in FLOATS):
            dtype = str(tensor.dtype).removeprefix("torch.")
            raise InputError(f"{path}: {name} is stored as {dtype}", "Save the weights unquantised")
        wanted = torch.float32 if tensor.is_floating_point() else tensor.dtype
        copies[name] = tensor.detach().to(wanted, copy=True, memory_format=torch.contiguous_format)
    return copies


def refuse_nonfinite(state: Mapping[str, Tensor], path: Path) -> None:
    """Checks that all floating-point tensors are finite.

    Raises:
        InputError: some are not; it names the first and says how many there are.
    """
    bad = [n for n, t in state.items() if t.is_floating_point() and not bool(torch.isfinite(t).all())]
    if bad:
        count = f"{len(bad)} of {len(state)} tensors"
        raise InputError(
            f"{path} holds NaN or infinite weights: {bad[0]} is the first, {count} have some",
            "Train or unlearn it again; such a model has no answers",
        )


def dominant_dtype(elements: Counter[str]) -> str:
    """Returns the dtype that most elements are stored in.

    Args:
        elements: number of elements by dtype name.
    """
    return elements.most_common(1)[0][0]


def _find_state(loaded: Any, path: Path) -> dict[str, Tensor]:
    if isinstance(loaded, Tensor):
        raise InputError(f"{path} holds one tensor, not a state dict", "Save model.state_dict()")
    if not isinstance(loaded, Mapping):
        raise InputError(f"{path} holds a {type(loaded).__name__}, not a state dict", "Save model.state_dict()")
    for candidate in (loaded, *(loaded.get(key) for key in STATE_KEYS)):
        if isinstance(candidate, Mapping) and _is_state(candidate):
            return dict(candidate)
    keys = ", ".join(str(key) for key in list(loaded)[:5]) or "nothing"
    raise InputError(
        f"{path} holds no state dict (its keys: {keys[:200]})",
        f"Put model.state_dict() at the top or under one of {', '.join(STATE_KEYS)}",
    )


def _is_state(value: Mapping[Any, Any]) -> bool:
    return bool(value) and all(isinstance(k, str) and isinstance(t, Tensor) for k, t in value.items())


def _is_text_by_name(files: Any) -> bool:
    """File names come from the file: only plain ones, so that nothing is written outside a directory."""
    return isinstance(files, dict) and all(
        isinstance(name, str) and FILE_NAME.fullmatch(name) and isinstance(text, str) and _is_unicode(text)
        for name, text in files.items()
    )


def _is_unicode(text: str) -> bool:
    """A pickle may hold halves of characters, which no file can."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
