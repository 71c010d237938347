"""Writes a checkpoint in one of the three forms that `open_target` reads."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from redteam.atomic import replacing, staging
from redteam.checkpoints.architecture import describe
from redteam.checkpoints.contents import FORMAT
from redteam.checkpoints.digest import weights_digest
from redteam.checkpoints.quiet import quiet_transformers
from redteam.checkpoints.shards import SINGLE
from redteam.checkpoints.texts import TextClassifier
from redteam.checkpoints.untrusted import KEY
from redteam.errors import InputError

# Where a tokenizer came from; left out so that equal tokenizers give equal bytes.
ORIGIN = ("name_or_path", "is_local", "local_files_only")
TOKENIZER_FILES = {
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Descriptions:
    """What describes a model beside its weights, as text.

    Attributes:
        config: of a language model, what its config.json holds; None for a classifier.
        tokenizer: of a language model, its tokenizer's files by name.
        architecture: of a classifier, its description as JSON; None for a language model.
    """

    config: str | None = None
    tokenizer: dict[str, str] = field(default_factory=dict)
    architecture: str | None = None


def save_checkpoint(path: Path, module: nn.Module, tokenizer: PreTrainedTokenizerBase | None = None) -> str:
    """Writes a model with all that describes it, atomically. Equal models give equal bytes, whatever the path.

    Args:
        path: its suffix says the form. `.pt`: one self-contained file of tensors and primitives, which
            torch.load reads in its safe mode. `.safetensors`: that file, and of a language model config.json and the
            tokenizer's files beside it; a classifier's description is in the file's own header, so that classifiers
            of several architectures can lie side by side. None: a directory with config.json in it.
        module: a causal language model or a text classifier of transformers, or a module of `redteam.architectures`;
            weights keep their dtype.
        tokenizer: of what reads text; None for a classifier of arrays.

    Returns:
        The digest of the weights, see `weights_digest`.

    Raises:
        InputError: the suffix is unknown, the place cannot be written, or something else is there.
        TypeError: nothing describes the module, or it reads text and comes without its tokenizer.
    """
    if isinstance(module, TextClassifier):  # as it was opened
        module = module.model
    writers = {".pt": _save_torch, ".safetensors": _save_safetensors, "": _save_directory}
    form = _form(path)
    with quiet_transformers():
        writers[form](path, module, _descriptions(module, tokenizer))
    return weights_digest(path)


def _descriptions(module: nn.Module, tokenizer: PreTrainedTokenizerBase | None) -> Descriptions:
    if not isinstance(module, PreTrainedModel):
        return Descriptions(architecture=json.dumps(describe(module), sort_keys=True))
    if tokenizer is None:
        raise TypeError("a model that reads text is saved with its tokenizer")
    return Descriptions(config=_config_text(module), tokenizer=_tokenizer_files(tokenizer))


def check_place(path: Path) -> None:
    """Makes sure that a checkpoint can be written to `path`, before the work that leads to one.

    Raises:
        InputError: as `save_checkpoint`.
    """
    if _form(path):
        with staging(path):
            return
    with staging(path):
        _refuse_foreign(path, TOKENIZER_FILES)


def _form(path: Path) -> str:
    """Returns the suffix that says the form: ".pt", ".safetensors", or "" for a directory."""
    # "qwen2.5-0.5b" is a name of a directory, not one with a suffix.
    suffix = "" if path.suffix[1:2].isdigit() else path.suffix
    if suffix not in (".pt", ".safetensors", ""):
        raise InputError(
            f"{path} ends in {path.suffix}, which is no form of checkpoint",
            "End it in .pt or .safetensors, or in nothing for a Hugging Face directory",
        )
    if path.is_dir() and suffix:
        raise InputError(f"{path} is a directory", "Choose another name")
    return suffix


def _save_torch(path: Path, module: nn.Module, about: Descriptions) -> None:
    payload: dict[str, Any] = {"format": FORMAT, "model": _state(module)}
    if about.architecture is None:
        payload |= {"config": about.config, "tokenizer": about.tokenizer}
    else:
        payload |= {"architecture": about.architecture}
    # Through an open file: given a path, torch.save writes the file's name into every entry of the zip.
    with replacing(path) as draft, draft.open("wb") as file:
        torch.save(payload, file)


def _save_safetensors(path: Path, module: nn.Module, about: Descriptions) -> None:
    sidecars = dict(about.tokenizer)
    if about.config is not None:
        sidecars["config.json"] = about.config
    for name, text in sidecars.items():
        beside = path.parent / name
        if beside.exists() and beside.read_bytes() != text.encode():
            raise InputError(f"{beside} is there already and belongs to another model", "Choose an empty directory")
    # One entry: the library writes several in any order, and equal models must give equal bytes.
    described = {"format": "pt"} if about.architecture is None else {KEY: about.architecture}
    with staging(path) as folder:
        save_file(_state(module), folder / path.name, metadata=described)
        _write_all(folder, sidecars)
        for name in (*sidecars, path.name):  # the weights last: they are what makes it a checkpoint
            os.replace(folder / name, path.parent / name)


def _save_directory(path: Path, module: nn.Module, about: Descriptions) -> None:
    with staging(path) as folder:
        new = folder / "new"
        new.mkdir()
        if isinstance(module, PreTrainedModel):
            module.save_pretrained(new)
            _write_all(new, about.tokenizer)
        else:
            save_file(_state(module), new / SINGLE, metadata={"format": "pt"})
            described = {KEY: json.loads(about.architecture or "")}
            _write_all(new, {"config.json": json.dumps(described, indent=2, sort_keys=True) + "\n"})
        _refuse_foreign(path, {file.name for file in new.iterdir()})
        _replace_directory(new, path, folder)


def _replace_directory(new: Path, path: Path, folder: Path) -> None:
    """Moves the directory `new` to `path`; what was there goes to the staging `folder` and with it.

    Raises:
        OSError: `path` cannot be replaced; what was there is back in place.
    """
    old = folder / "old"
    if path.exists():
        os.rename(path, old)
    try:
        os.rename(new, path)
    except OSError:
        if old.exists():
            os.rename(old, path)
        raise


def _refuse_foreign(path: Path, written: set[str]) -> None:
    """Refuses to replace a directory that holds more than an earlier checkpoint of ours."""
    if not path.is_dir():
        if path.exists():
            raise InputError(f"{path} is a file", "Choose another name, or remove it")
        return
    present = {entry.name for entry in path.iterdir()}
    ours = {n for n in present if n.startswith("model") and n.endswith((".safetensors", ".index.json"))}
    foreign = sorted(present - ours - written - {"redteam.json", "generation_config.json"})
    if foreign or (present and "config.json" not in present):
        what = foreign[0] if foreign else "no config.json"
        raise InputError(f"{path} is a directory that redteam did not write (it has {what})", "Choose another name")


def _state(module: nn.Module) -> dict[str, Tensor]:
    """Returns the state dict on the CPU, contiguous, each tensor with a storage of exactly its size.

    Tied weights are left out where transformers ties them again.
    """
    state = module.state_dict()
    tied: dict[str, Any] = getattr(module, "all_tied_weights_keys", None) or {}
    kept = {}
    for name, tensor in state.items():
        source = state.get(str(tied.get(name)))
        if source is not None and source.data_ptr() == tensor.data_ptr():
            continue
        cpu = tensor.detach().cpu().contiguous()
        whole = cpu.untyped_storage().nbytes() == cpu.numel() * cpu.element_size()
        kept[name] = cpu if whole else cpu.clone()
    return kept


def _config_text(module: PreTrainedModel) -> str:
    """Returns config.json as save_pretrained would write it, without where the model came from."""
    config = json.loads(module.config.to_json_string())
    config.pop("_name_or_path", None)
    config["architectures"] = [type(module).__name__]
    config["dtype"] = str(module.dtype).removeprefix("torch.")
    return json.dumps(config, indent=2, sort_keys=True) + "\n"


def _tokenizer_files(tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    """Returns the text of the files that the tokenizer saves, by name, sorted."""
    files = {}
    with tempfile.TemporaryDirectory(prefix="redteam-") as folder:
        tokenizer.save_pretrained(folder)
        for file in sorted(Path(folder).iterdir()):
            try:
                files[file.name] = file.read_text(encoding="utf-8")
            except (IsADirectoryError, UnicodeDecodeError) as error:
                raise InputError(
                    f"the tokenizer saves {file.name}, which is not text", "Convert it to a fast tokenizer"
                ) from error
    config = json.loads(files["tokenizer_config.json"])
    files["tokenizer_config.json"] = (
        json.dumps({k: v for k, v in config.items() if k not in ORIGIN}, indent=2, ensure_ascii=False) + "\n"
    )
    return files


def _write_all(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
