"""What a checkpoint is, told from its headers where it has some; nothing in it is run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from redteam.checkpoints.adapter_config import adapted_modules, adapter_config, trained_on
from redteam.checkpoints.digest import weights_digest
from redteam.checkpoints.gguf_header import INSTALL, TOKENS, Array, gguf_installed, read_gguf
from redteam.checkpoints.header import TensorEntry, read_header, read_metadata
from redteam.checkpoints.hub import located
from redteam.checkpoints.identify import Kind, identify
from redteam.checkpoints.manifest import open_manifest
from redteam.checkpoints.shards import ADAPTER_CONFIG, shard_paths
from redteam.checkpoints.text_config import refuse_other_texts
from redteam.checkpoints.untrusted import (
    KEY,
    TOKENIZER_FILES,
    classifies_images,
    classifies_texts,
    parse_description,
    read_json,
    without_code,
)
from redteam.errors import InputError

QUICK = 2**28  # bytes whose digest takes less than a second
# Names that tensors have in the models of a family; where nothing describes a model, they suggest what it is.
FAMILIES = (
    ("self_attn.q_proj", "a Llama-like language model"),
    ("self_attn.qkv_proj", "a Phi-like language model"),
    ("gpt_neox.", "a GPT-NeoX language model"),
    ("attn.c_attn", "a GPT-2-like language model"),
    ("encoder.layer.0.attention", "a BERT-like encoder"),
    ("lora_A", "adapters without their base"),
)
# What configs of transformers call the sizes that people know a model by.
SIZES = (
    ("layers", ("num_hidden_layers", "n_layer", "n_layers", "num_layers")),
    ("hidden size", ("hidden_size", "n_embd", "d_model", "dim")),
    ("vocabulary", ("vocab_size",)),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Inspected:
    """What a checkpoint is.

    Attributes:
        path: as given.
        form: "a safetensors file" and the like.
        size: bytes of its weight files.
        files: number of them.
        sha256: digest of the weights, as `weights_digest`; None if it was not asked for and would take long.
        tensors: dtype and shape by name.
        architecture: what is known of the architecture; None if nothing is.
        described_by: where that is written; None if it is only suggested by the names of the tensors.
        language: whether it is a language model, or might be one; else a classifier.
        text: whether it is a classifier of text.
        tokenizer: where the tokenizer is; None if there is none.
        method: by which the manifest says that it was made; None without a manifest.
        missing: what an attack lacks, each with the remedy: a clause and a sentence.
    """

    path: Path
    form: str
    size: int
    files: int
    sha256: str | None
    tensors: Mapping[str, TensorEntry]
    architecture: str | None
    described_by: str | None
    language: bool
    text: bool
    tokenizer: str | None
    method: str | None
    missing: tuple[tuple[str, str], ...]

    @property
    def elements(self) -> dict[str, int]:
        """Number of elements by dtype, the most frequent first."""
        counted = Counter[str]()
        for entry in self.tensors.values():
            counted[entry.dtype] += prod(entry.shape)
        return dict(counted.most_common())

    def as_json(self) -> dict[str, Any]:
        """Returns all that is known as plain data, missing things as found and remedy, tensors as dtype and shape."""
        return {
            "path": str(self.path),
            "form": self.form,
            "bytes": self.size,
            "files": self.files,
            "sha256": self.sha256,
            "elements": self.elements,
            "architecture": self.architecture,
            "described_by": self.described_by,
            "tokenizer": self.tokenizer,
            "method": self.method,
            "missing": [{"found": found, "remedy": remedy} for found, remedy in self.missing],
            "tensors": {name: [entry.dtype, list(entry.shape)] for name, entry in self.tensors.items()},
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class _Found:
    """What the weight files themselves hold."""

    tensors: Mapping[str, TensorEntry]
    description: Mapping[str, Any] | None = None
    tokenizer: bool = False


def inspect_checkpoint(path: Path, *, config: Path | None = None, digest: bool = False) -> Inspected:
    """Tells what a checkpoint is, and what is missing to attack it.

    Args:
        path: a Hugging Face directory, a .safetensors or .gguf file, or a .pt file written by torch.save.
        config: a config.json, or the directory of one, if none lies beside the checkpoint.
        digest: whether the digest is found even of files so large that it takes more than a second.

    Raises:
        InputError: it is none of these, is damaged, or wants something run; `attack` would refuse it likewise.
    """
    path = located(path)
    kind = identify(path)
    files = shard_paths(path) if path.is_dir() else [path]
    size = sum(file.stat().st_size for file in files)
    found = _read(path, kind, files)
    if kind is Kind.ADAPTER:
        return _adapter(path, size, found)
    place = config or (path if path.is_dir() else path.parent)
    folder = place if place.is_dir() else place.parent
    description, where = found.description, f"in {path.name}"
    if config is not None or description is None:
        description, where = _described_in(place / "config.json" if place.is_dir() else place, config)
    tokenizer = where if found.tokenizer and config is None else _tokenizer_in(folder)
    manifest = open_manifest(path)
    suggested = _suggested(found.tensors)
    language = "language model" in (suggested or "")
    text = description is not None and classifies_texts(description)
    if description is not None:
        language = not (KEY in description or text or classifies_images(description))
    missing = list(_missing(description, language or text, folder, tokenizer))
    if description is not None and text:
        missing += _unopened(description, where)
    if kind is Kind.GGUF and not gguf_installed():
        missing.append(("the package gguf is not installed", INSTALL))
    if manifest is None:
        missing.append(("no manifest says what was removed", "Give --capability, and --original and --reference"))
    return Inspected(
        path=path,
        form=kind.value,
        size=size,
        files=len(files),
        sha256=weights_digest(path) if digest or size <= QUICK else None,
        tensors=found.tensors,
        architecture=suggested if description is None else _named(description),
        described_by=None if description is None else where,
        language=language,
        text=text,
        tokenizer=tokenizer,
        method=manifest[0].method if manifest else None,
        missing=tuple(missing),
    )


def _adapter(path: Path, size: int, found: _Found) -> Inspected:
    """Returns what is known of an adapter: its kind and rank, and which modules of its base it changes."""
    settings = adapter_config(path)
    changed = sorted({name.rpartition(".")[2] for name in adapted_modules(found.tensors)})
    sizes = f"rank {settings['r']}, alpha {settings['lora_alpha']:g}"
    return Inspected(
        path=path,
        form=Kind.ADAPTER.value,
        size=size,
        files=1,
        sha256=weights_digest(path),
        tensors=found.tensors,
        architecture=f"low-rank adapter: {sizes}, on {', '.join(changed)}",
        described_by=str(path / ADAPTER_CONFIG),
        language=True,
        text=False,
        tokenizer=None,
        method=None,
        missing=(
            ("an adapter is no whole model", f"Give the one{trained_on(path)} that it was trained on: --base PATH"),
            ("nothing says what was removed", "Give --capability, and --original and --reference"),
        ),
    )


def _read(path: Path, kind: Kind, files: list[Path]) -> _Found:
    if kind in (Kind.TORCH, Kind.LEGACY) or (path.is_dir() and files[0].suffix == ".bin"):
        return _read_torch(path, files)
    if kind is Kind.GGUF:
        return _read_gguf(path)
    tensors = {name: entry for file in files for name, entry in read_header(file).items()}
    if not tensors:
        raise InputError(f"{path} holds no tensors", "Save the weights again")
    text = read_metadata(path).get(KEY) if kind is Kind.SAFETENSORS else None
    return _Found(tensors=tensors, description=_architecture(text, path))


def _read_gguf(path: Path) -> _Found:
    header = read_gguf(path)
    tokens = header.metadata.get(TOKENS)
    count = tokens.count if isinstance(tokens, Array) else None
    said = {
        "model_type": header.architecture,
        "num_hidden_layers": header.of_architecture("block_count"),
        "hidden_size": header.of_architecture("embedding_length"),
        "vocab_size": header.of_architecture("vocab_size") or count,
    }
    return _Found(tensors=header.entries, description=said, tokenizer=count is not None)


def _read_torch(path: Path, files: list[Path]) -> _Found:
    from redteam.checkpoints.contents import read_contents  # torch takes seconds to import
    from redteam.checkpoints.legacy import read_torch

    parts = [read_contents(read_torch(file, shapes=True), file) for file in files]
    tensors = {
        name: TensorEntry(str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape))
        for part in parts
        for name, tensor in part.state.items()
    }
    description = parts[0].config or _architecture(parts[0].architecture, path)
    return _Found(tensors=tensors, description=description, tokenizer=parts[0].tokenizer is not None)


def _architecture(text: Any, path: Path) -> dict[str, Any] | None:
    return None if text is None else {KEY: parse_description(text, f"the description in {path}")}


def _described_in(file: Path, given: Path | None) -> tuple[dict[str, Any] | None, str]:
    if not file.is_file():
        if given is not None:
            raise InputError(f"there is no config {file}", "Check the path given to --config")
        return None, ""
    return without_code(read_json(file), str(file)), str(file)


def _tokenizer_in(folder: Path) -> str | None:
    return next((str(folder / name) for name in TOKENIZER_FILES if (folder / name).is_file()), None)


def _unopened(description: Mapping[str, Any], where: str) -> list[tuple[str, str]]:
    """Returns why a classifier of text would not be opened, with the remedy; nothing if it would."""
    try:
        refuse_other_texts(description, where)
    except InputError as error:
        return [(error.found, error.remedy)]
    return []


def _missing(
    description: Mapping[str, Any] | None, reads: bool, folder: Path, tokenizer: str | None
) -> Iterator[tuple[str, str]]:
    if description is None:
        yield (
            "nothing says how the model is built",
            "Give its config.json with --config, or what builds it with --arch",
        )
    if reads and tokenizer is None:
        yield f"there is no tokenizer in {folder}", "Put tokenizer.json there: tokenizer.save_pretrained(directory)"


def _named(description: Mapping[str, Any]) -> str:
    """Returns an architecture in words: its kind, and the sizes that people know it by."""
    own = description.get(KEY)
    if isinstance(own, dict):
        sizes = ", ".join(f"{name} {value}" for name, value in own.items() if name != "name")
        return f"{own.get('name')}: {sizes}" if sizes else str(own.get("name"))
    known = [
        (title, next((description[name] for name in names if name in description), None)) for title, names in SIZES
    ]
    sizes = ", ".join(f"{title} {value}" for title, value in known if isinstance(value, int))
    kind = str(description.get("model_type", "unnamed"))
    if classifies_texts(description):
        kind, classes = f"{kind}, a classifier of text", description.get("id2label")
        sizes += f", classes {len(classes)}" if isinstance(classes, dict) else ""
    return f"{kind}: {sizes}" if sizes else kind


def _suggested(tensors: Mapping[str, TensorEntry]) -> str | None:
    """Returns what the names and shapes of tensors suggest; they prove nothing."""
    for part, what in FAMILIES:
        if any(part in name for name in tensors):
            return what
    if any(len(entry.shape) == 4 for entry in tensors.values()):
        return "a convolutional network"
    return None
