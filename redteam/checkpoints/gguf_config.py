"""The config of a GGUF file, as transformers makes it of the metadata.

The header has been read and checked by then (`gguf_header`). transformers is shown a copy of the metadata with tensors
that hold nothing, in a directory of its own: what lies beside a GGUF file could send it to other weights.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import struct
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig

from redteam.checkpoints.gguf_header import MAGIC, TOKENS, VERSIONS, Array, GGUFHeader, of_tokenizer
from redteam.checkpoints.quiet import quiet_process
from redteam.errors import InputError

LONGEST = 2**13  # bytes of what says something of an architecture, for instance a number for each layer
ORIGINAL = "Give the Hugging Face directory that it was converted from"
GIVEN = "Give the model's config.json, with the tokenizer beside it: --config DIRECTORY"
# What the metadata say of an architecture and transformers need not read: sizes that tensors show, or bound nothing.
SHOWN = {
    *("vocab_size", "context_length", "feed_forward_length", "expert_feed_forward_length"),
    *("expert_shared_feed_forward_length", "attention.key_length", "attention.value_length", "rope.dimension_count"),
    "rope.scaling.finetuned",
}
# What it must know instead, by its own name for it.
KNOWN = {
    "attention.sliding_window": "sliding_window",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
}
NOTHING = (("rope.scaling.type", "none"), ("rope.scaling.factor", 1.0))


def gguf_config(path: Path, header: GGUFHeader) -> dict[str, Any]:
    """Returns what a config.json would hold.

    Args:
        path: of the file.
        header: of the file.

    Raises:
        InputError: transformers cannot make a config of the metadata; mostly it does not know the architecture.
    """
    with tempfile.TemporaryDirectory(prefix="redteam-") as folder, reading(path):
        hollow = Path(folder) / "model.gguf"
        hollow.write_bytes(_hollow(path, header))
        said: dict[str, Any] = gguf_library().load_gguf_checkpoint(str(hollow), return_tensors=False)["config"]
    tokens = header.metadata.get(TOKENS)
    if isinstance(tokens, Array):
        said.setdefault("vocab_size", tokens.count)
    return {key: value for key, value in said.items() if key != "_model_name_or_path"}


def refuse_unread(path: Path, header: GGUFHeader, said: Mapping[str, Any], config: PreTrainedConfig) -> None:
    """Refuses metadata that transformers leaves out, for instance how positions are scaled, or experts weighed.

    Args:
        path: of the file, for messages.
        header: of the file.
        said: what `gguf_config` returned.
        config: built of it.

    Raises:
        InputError: there are some; the model would say something else, without a word.
    """
    tables = gguf_library().GGUF_TO_TRANSFORMERS_MAPPING["config"]
    read = tables.get(said.get("model_type")) or tables.get(header.architecture) or {}
    prefix = f"{header.architecture}."
    for key, value in header.metadata.items():
        name = key.removeprefix(prefix)
        if not key.startswith(prefix) or name in read or name in SHOWN:
            continue
        known = name in KNOWN and getattr(config, KNOWN[name], None) == value
        if not known and not any(name == other and value == nothing for other, nothing in NOTHING):
            raise InputError(f"{path} says {key[:80]}, which transformers does not read there", GIVEN)


def _hollow(path: Path, header: GGUFHeader) -> bytes:
    """Returns a file of the same metadata but for the tokenizer, and of the same tensors by name, of one zero each."""
    kept = []
    with path.open("rb") as file:
        for key, (begin, end) in header.raw.items():
            if not of_tokenizer(key) and end - begin <= LONGEST:
                file.seek(begin)
                kept.append(file.read(end - begin))
    table = [_text(name) + struct.pack("<IQIQ", 1, 1, 0, 0) for name in header.tensors]
    start = MAGIC + struct.pack("<IQQ", VERSIONS[-1], len(table), len(kept))
    alignment = header.metadata.get("general.alignment", 32)
    return b"".join([start, *kept, *table, bytes(alignment + 4)])


def _text(value: str) -> bytes:
    encoded = value.encode()
    return struct.pack("<Q", len(encoded)) + encoded


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Lets libraries say nothing, and turns what they raise over a file into one line.

    Raises:
        InputError: they raise something.
    """
    try:
        with quiet_process(), contextlib.redirect_stderr(io.StringIO()):
            yield
    except Exception as error:  # they raise whatever they stumble over
        why = str(error).strip() or type(error).__name__
        raise InputError(f"transformers makes no model of {path} ({why[:200]})", ORIGINAL) from error


def gguf_library() -> Any:
    """Returns what transformers knows of GGUF; nothing else needs it, and releases to come may keep it elsewhere."""
    return importlib.import_module("transformers.modeling_gguf_pytorch_utils")
