"""A model that is already in memory: attacked as a copy, so that it stays exactly as it was given."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from redteam.checkpoints.contents import FLOATS, dominant_dtype
from redteam.checkpoints.texts import is_text_classifier, read_as_text
from redteam.checkpoints.untrusted import PICTURES
from redteam.errors import InputError, one_line
from redteam.target import Target

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# What a config says of where it came from, and not of the model.
PROVENANCE = ("_name_or_path", "transformers_version", "dtype", "torch_dtype")


@dataclass(frozen=True, kw_only=True, slots=True)
class Live:
    """A module of the user's own, with a role in a run.

    Attributes:
        name: for people, and in the name of the run.
        module: a causal language model or a text classifier of transformers, or any classifier of arrays.
        tokenizer: of what reads text; None for a classifier of arrays.
        sha256: of names, dtypes, shapes and bytes of its tensors.
        description: digest of its config, its tokenizer and its chat template; of a classifier, of its structure as it
            is printed.
    """

    name: str
    module: nn.Module
    tokenizer: PreTrainedTokenizerBase | None
    sha256: str
    description: str

    @property
    def files(self) -> Mapping[str, str]:
        """A module has no files: as those of a checkpoint."""
        return {}

    def open(self) -> Target:
        """Returns a copy in float32 on the CPU, in evaluation mode.

        Raises:
            InputError: the module was changed since the run began, or cannot be copied.
        """
        if tensors_digest(self.module) != self.sha256:
            raise InputError(f"the {self.name} was changed while it was attacked", "Leave it as it is until then")
        with torch.random.fork_rng(devices=[]):
            try:
                copied = _gathered(deepcopy(self.module)).eval()
            except Exception as error:  # anybody's module
                raise InputError(
                    f"the {self.name} cannot be copied ({one_line(str(error))[:200]})",
                    "Save it, and give the checkpoint",
                ) from error
        for parameter in copied.parameters():
            parameter.requires_grad_(True)
        known: dict[str, Any] = {
            "name": self.name,
            "sha256": self.sha256,
            "stored_dtype": _dtype(self.module, self.name),
        }
        if self.tokenizer is not None and is_text_classifier(copied):
            classifier, reader = read_as_text(copied, self.tokenizer, f"the {self.name}")
            return Target(module=classifier.eval(), tokenizer=None, reader=reader, **known)
        return Target(module=copied, tokenizer=self.tokenizer, **known)


def live_model(module: nn.Module, tokenizer: PreTrainedTokenizerBase | None, name: str) -> Live:
    """Returns a module with what identifies it.

    Args:
        module: a causal language model or a text classifier of transformers, or any classifier: a module that takes
            inputs [n, ...] and returns logits [n, classes], or an output with them. An image classifier of transformers
            is given inputs as they are: its processor is not in the module.
        tokenizer: of what reads text.
        name: for people.

    Raises:
        InputError: it has no weights that can be attacked, or some that are not finite; or what reads text has no
            tokenizer, or is no text classifier that is known.
    """
    _dtype(module, name)
    language = hasattr(module, "get_input_embeddings") and not type(module).__name__.endswith(PICTURES)
    if language and tokenizer is None:
        kind = "text classifier" if is_text_classifier(module) else "language model"
        raise InputError(f"the {name} is a {kind} without its tokenizer", "Give it: tokenizer=...")
    if tokenizer is not None and is_text_classifier(module):
        read_as_text(module, tokenizer, f"the {name}")
    bad = [key for key, tensor in _tensors(module).items() if tensor.is_floating_point() and not _finite(tensor)]
    if bad:
        raise InputError(f"the {name} holds NaN or infinite weights: {bad[0]} is the first", "Train it again")
    words = tokenizer if language else None
    return Live(
        name=name,
        module=module,
        tokenizer=words,
        sha256=tensors_digest(module),
        description=_described(module, words),
    )


def _gathered(module: nn.Module) -> nn.Module:
    """Moves a module, in place, to the processor's memory in float32, from wherever accelerate has spread it.

    Accelerate puts methods of its own on a module. In a copy they are still those of the module that was copied: asked
    to move, the copy would move that one instead, and return it.
    """
    if hasattr(module, "hf_device_map"):
        from accelerate.hooks import remove_hook_from_module

        remove_hook_from_module(module, recurse=True)
        del module.hf_device_map
    for name in [name for name in ("to", "cuda") if name in vars(module)]:
        delattr(module, name)
    return module.to(device="cpu", dtype=torch.float32)


def tensors_digest(module: nn.Module) -> str:
    """Returns the SHA-256 of a module's tensors, sorted by name: names, dtypes, shapes and bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(_tensors(module).items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in module.state_dict().items() if isinstance(tensor, Tensor)}


def _finite(tensor: Tensor) -> bool:
    return bool(torch.isfinite(tensor).all())


def _dtype(module: nn.Module, name: str) -> str:
    """Returns the precision that most weights are held in.

    Raises:
        InputError: there are none, or some are quantised or without memory: there is nothing that could be trained.
    """
    elements = Counter[str]()
    for key, parameter in module.named_parameters():
        if parameter.is_meta or parameter.dtype not in FLOATS:
            kind = "without memory" if parameter.is_meta else str(parameter.dtype).removeprefix("torch.")
            raise InputError(f"the {name} has weights that are {kind}: {key}", "Load it unquantised, in memory")
        elements[str(parameter.dtype).removeprefix("torch.")] += parameter.numel()
    if not elements:
        raise InputError(f"the {name} has no weights", "Give the model itself")
    return dominant_dtype(elements)


def _described(module: nn.Module, tokenizer: PreTrainedTokenizerBase | None) -> str:
    if tokenizer is None:
        return hashlib.sha256(str(module).encode()).hexdigest()
    held: Any = module
    config = {key: value for key, value in held.config.to_dict().items() if key not in PROVENANCE}
    backend = getattr(tokenizer, "backend_tokenizer", None)
    words = backend.to_str() if backend is not None else json.dumps(tokenizer.get_vocab(), sort_keys=True)
    if tokenizer.chat_template is not None:  # how a chat is asked is no part of the backend
        words += json.dumps(tokenizer.chat_template, sort_keys=True)
    told = json.dumps(config, sort_keys=True, default=str)
    return hashlib.sha256(f"{type(module).__name__}\n{told}\n{words}\n".encode()).hexdigest()
