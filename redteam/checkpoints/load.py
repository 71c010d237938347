"""Opens a checkpoint: bytes that nobody vouches for become the model under attack, or one line that says why not."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification, PreTrainedTokenizerBase

from redteam.checkpoints.adapter import merge_adapter
from redteam.checkpoints.adapter_config import required_base
from redteam.checkpoints.architecture import build_architecture
from redteam.checkpoints.build import Weights, build_module
from redteam.checkpoints.contents import (
    Contents,
    as_float32,
    dominant_dtype,
    load_tensors,
    read_contents,
    refuse_nonfinite,
    strip_prefix,
)
from redteam.checkpoints.dequantised import dequantised
from redteam.checkpoints.description import LABELLED, PICTURES, build_config, load_tokenizer, tokenizer_from_text
from redteam.checkpoints.digest import weights_digest
from redteam.checkpoints.factory import build_from
from redteam.checkpoints.gguf_model import open_gguf
from redteam.checkpoints.header import TensorEntry, read_header, read_metadata
from redteam.checkpoints.hub import located, model_name
from redteam.checkpoints.identify import Kind, identify
from redteam.checkpoints.legacy import read_torch
from redteam.checkpoints.pictures import ImageClassifier, normalisation, refuse_other_pictures
from redteam.checkpoints.quantised import KEY as QUANTISED
from redteam.checkpoints.quantised import refuse_method
from redteam.checkpoints.quiet import quiet_transformers
from redteam.checkpoints.shards import shard_paths
from redteam.checkpoints.text_config import refuse_other_texts
from redteam.checkpoints.texts import read_as_text
from redteam.checkpoints.untrusted import KEY, classifies_images, classifies_texts, parse_description, read_json
from redteam.errors import InputError
from redteam.target import Target, TextReader

# A module, what it reads text with if it is a language model or classifies text, and what it was stored in.
Opened = tuple[nn.Module, PreTrainedTokenizerBase | None, TextReader | None, str]
# How the safetensors format spells the precisions that can be attacked.
DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def open_target(
    path: Path,
    *,
    config: Path | None = None,
    arch: str | None = None,
    base: Path | None = None,
    expect_sha256: str | None = None,
    known_sha256: str | None = None,
) -> Target:
    """Loads a checkpoint. The state of torch's random generator stays as it was.

    Args:
        path: a Hugging Face directory, a .safetensors or .gguf file, a .pt file written by torch.save, or the
            directory of a PEFT adapter, or an address hf://org/name@revision. What it is shows in its content, not in
            its name.
        config: a config.json, or the directory of one, with the tokenizer beside it. Without it: what the
            checkpoint carries, else config.json beside it.
        arch: instead of a config, a function of the user's own that builds the classifier: `path/to/file.py:function`.
            It is run.
        base: of a PEFT adapter, the checkpoint that it was trained on; `config` is that one's then.
        expect_sha256: the digest that the weights must have, as `weights_digest` returns it.
        known_sha256: the digest that they have, where the caller knows it: they are not hashed then.

    Returns:
        The model in evaluation mode, weights in float32 on the CPU.

    Raises:
        InputError: the checkpoint cannot be trusted, understood or completed, or has another digest.
    """
    path = located(path)
    kind = identify(path)
    digest = known_sha256 or weights_digest(path)
    if expect_sha256 is not None and digest != expect_sha256:
        raise InputError(
            f"{path} has digest {digest[:12]}…, the manifest says {expect_sha256[:12]}…: "
            "it was changed after the manifest was written",
            "Build it again, or restore the file",
        )
    return _loaded(path, kind, digest, config, arch, base)


def _loaded(path: Path, kind: Kind, digest: str, config: Path | None, arch: str | None, base: Path | None) -> Target:
    """Returns the model of a checkpoint, which is then known by a digest."""
    if kind is Kind.ADAPTER:
        return _adapted(path, digest, base, config, arch)
    with quiet_transformers(), torch.random.fork_rng(devices=[]):
        module, tokenizer, reader, stored_dtype = _opened(path, kind, config, arch)
        refuse_nonfinite(module.state_dict(), path)
    return Target(
        name=model_name(path),
        sha256=digest,
        module=module,
        tokenizer=tokenizer,
        stored_dtype=stored_dtype,
        reader=reader,
    )


def _opened(path: Path, kind: Kind, config: Path | None, arch: str | None) -> Opened:
    """Returns the module, what it reads text with if it does, and what most of its weights are stored in."""
    if kind is Kind.GGUF:
        if arch is not None:
            raise InputError(f"{path} is a language model, and --arch builds a classifier", "Leave --arch out")
        module, tokenizer, stored = open_gguf(
            path, None if config is None else _config_file(path, config, Contents(state={}))
        )
        return module, tokenizer, None, stored
    weights, contents = _read_weights(path, kind)
    return _built(path, weights, contents, config, arch)


def _adapted(path: Path, digest: str, base: Path | None, config: Path | None, arch: str | None) -> Target:
    """Opens the base of an adapter and merges the adapter into it; the tokenizer is the base's."""
    base = located(required_base(path, base))
    if arch is not None:
        raise InputError(f"{path} is an adapter, and --arch builds a classifier", "Merge the adapter into its base")
    kind = identify(base)
    if kind is Kind.ADAPTER:
        raise InputError(f"the base {base} is itself an adapter", "Merge that one into its own")
    found = _loaded(base, kind, digest, config, None, None)
    if found.tokenizer is None:
        raise InputError(f"the base {base} is a classifier", "Give the language model that the adapter was trained on")
    with quiet_transformers(), torch.random.fork_rng(devices=[]):
        module = merge_adapter(found.module, path)
        refuse_nonfinite(module.state_dict(), path)
    return replace(found, name=model_name(path), module=module)


def _built(path: Path, weights: Weights, contents: Contents, config: Path | None, arch: str | None) -> Opened:
    """Returns the module that a function, a config or the checkpoint itself describes, and as `_opened`."""
    if arch is not None:
        return build_from(arch, weights), None, None, weights.stored_dtype
    config_file = _config_file(path, config, contents)
    data, where = _description(path, config_file, contents)
    if KEY in data:
        return build_architecture(data, where, weights), None, None, weights.stored_dtype
    if data.get(QUANTISED):
        refuse_method(data[QUANTISED], where)
        weights = dequantised(weights, data[QUANTISED])
    if classifies_images(data):
        folder = config_file.parent if config_file is not None else path.parent
        return _pictures(data, where, weights, folder), None, None, weights.stored_dtype
    if classifies_texts(data):
        refuse_other_texts(data, where)
        module = build_module(build_config(data, where, LABELLED), weights, AutoModelForSequenceClassification)
        classifier, reader = read_as_text(module, _tokenizer(path, config_file, contents), where)
        return classifier.eval(), None, reader, weights.stored_dtype
    module = build_module(build_config(data, where), weights)
    return module, _tokenizer(path, config_file, contents), None, weights.stored_dtype


def _pictures(data: dict[str, Any], where: str, weights: Weights, folder: Path) -> nn.Module:
    """Returns an image classifier of transformers, which normalises images as its processor would."""
    refuse_other_pictures(data, where, weights.tensors)
    module = build_module(build_config(data, where, PICTURES), weights, AutoModelForImageClassification)
    return ImageClassifier(module, *normalisation(folder)).eval()


def _read_weights(path: Path, kind: Kind) -> tuple[Weights, Contents]:
    """Reads the weights, and what a self-contained file says about the model."""
    shards = shard_paths(path) if kind is Kind.DIRECTORY else [path]
    if kind is Kind.DIRECTORY and shards[0].suffix == ".safetensors":
        entries = {name: entry for shard in shards for name, entry in read_header(shard).items()}
        return _weights(path, path, entries), Contents(state={})
    if kind is Kind.SAFETENSORS:
        entries = read_header(path)
        stored = strip_prefix(load_tensors(path))
        contents = Contents(state={}, architecture=read_metadata(path).get(KEY))
        return _weights(path, as_float32(stored, path), entries), contents
    parts = [read_contents(read_torch(shard), shard) for shard in shards]
    contents = replace(parts[0], state={name: tensor for part in parts for name, tensor in part.state.items()})
    names = {getattr(torch, name): code for code, name in DTYPES.items()}
    entries = {
        name: TensorEntry(names.get(tensor.dtype, str(tensor.dtype)), tuple(tensor.shape))
        for name, tensor in contents.state.items()
    }
    return _weights(path, as_float32(contents.state, path), entries), contents


def _weights(path: Path, source: Path | dict[str, Tensor], entries: dict[str, TensorEntry]) -> Weights:
    elements = Counter[str]()
    for entry in entries.values():
        elements[entry.dtype] += prod(entry.shape)
    floating = Counter({DTYPES[code]: count for code, count in elements.items() if code in DTYPES})
    if not floating:
        raise InputError(f"{path} holds no floating-point weights", "Save the weights unquantised")
    return Weights(
        path=path,
        source=source,
        tensors=len(entries),
        elements=elements.total(),
        stored_dtype=dominant_dtype(floating),
        converted=elements.keys() <= DTYPES.keys() - {"F32"},
    )


def _config_file(path: Path, given: Path | None, contents: Contents) -> Path | None:
    """Returns the config.json to use; None if the checkpoint carries its own description in it."""
    if given is None and not (contents.config is None and contents.architecture is None):
        return None
    place = given or (path if path.is_dir() else path.parent)
    file = place / "config.json" if place.is_dir() else place
    if file.is_file():
        return file
    if given is not None:
        raise InputError(f"there is no config {file}", "Check the path given to --config")
    raise InputError(
        f"{path} holds weights only, and there is no config.json beside it",
        "Give the model's config.json, with the tokenizer beside it: --config DIRECTORY,"
        " or a function that builds a classifier: --arch FILE.py:FUNCTION",
    )


def _description(path: Path, config_file: Path | None, contents: Contents) -> tuple[dict[str, Any], str]:
    """Returns what describes the model, as a config.json holds it, and where it is from."""
    if config_file is not None:
        return read_json(config_file), str(config_file)
    if contents.architecture is not None:
        where = f"the description in {path}"
        return {KEY: parse_description(contents.architecture, where)}, where
    return contents.config or {}, f"the config in {path}"


def _tokenizer(path: Path, config_file: Path | None, contents: Contents) -> PreTrainedTokenizerBase:
    if config_file is None:
        return tokenizer_from_text(contents.tokenizer or {}, path)
    return load_tokenizer(config_file.parent)
