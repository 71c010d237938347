"""Models of the Hugging Face hub: `hf://org/name@revision`, through its own client and its cache on this machine.

Nothing but weights, configs and tokenizers is fetched, and what is fetched is opened like any other directory.
"""

from __future__ import annotations

import re
from pathlib import Path

from redteam.errors import InputError, one_line

# A path has no empty parts, so that hf:// is written hf:/ in one.
ADDRESS = re.compile(r"hf:/{1,2}(?P<name>\w[\w.-]{0,95}/\w[\w.-]{0,95})(@(?P<revision>\w[\w./-]{0,199}))?")
WANTED = (
    "*.json",
    "*.safetensors",
    "pytorch_model*.bin",
    "adapter_model.bin",
    "*.model",
    "vocab.txt",
    "merges.txt",
    "*.jinja",
)


def located(path: Path) -> Path:
    """Returns where a checkpoint lies: of an address of the hub its directory in the cache, else the path itself.

    Downloads what the cache lacks, unless `HF_HUB_OFFLINE` is set.

    Raises:
        InputError: the address is malformed, or neither hub nor cache has the model.
    """
    text = str(path)
    if not text.startswith("hf:"):
        return path
    match = ADDRESS.fullmatch(text)
    if match is None:
        raise InputError(f"{text} is no address of a model", "Write it as hf://org/name@revision")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(match["name"], revision=match["revision"], allow_patterns=list(WANTED)))
    except Exception as error:  # of the hub, of the network, of the cache
        why = one_line(str(error).splitlines()[0] if str(error) else type(error).__name__)[:200]
        raise InputError(
            f"{match['name']} cannot be had from the hub ({why})",
            "Check name, revision and access, or give a directory on this machine",
        ) from error


def model_name(path: Path) -> str:
    """Returns what people call a checkpoint: its file or directory name; out of the hub's cache, the model's."""
    whole = path.resolve()
    if whole.parent.name == "snapshots" and whole.parent.parent.name.startswith("models--"):
        return whole.parent.parent.name.removeprefix("models--").replace("--", "/")
    return whole.name
