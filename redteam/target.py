"""The model under attack, in memory.

A target is the user's own module as it was loaded, never a re-implementation of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, kw_only=True, slots=True)
class TargetInfo:
    """What an attack may know of a target when it proposes parameters: sizes and names, no weights.

    Attributes:
        kind: "language" or "classifier".
        architecture: its name.
        parameters: number of weights.
        layers: hidden layers.
        hidden_size: width of a hidden layer, the widest where they differ.
    """

    kind: Literal["language", "classifier"]
    architecture: str
    parameters: int
    layers: int
    hidden_size: int


@dataclass(frozen=True, kw_only=True, slots=True)
class TextReader:
    """How texts become what a classifier of text takes.

    Attributes:
        tokenizer: of the classifier.
        vocabulary: tokens that it has embeddings for.
        longest: tokens that it reads at most; longer texts are cut, as the tokenizer cuts them. None for any number.
        classes: what its config calls them, in order.
    """

    tokenizer: PreTrainedTokenizerBase
    vocabulary: int
    longest: int | None
    classes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """A loaded model.

    Attributes:
        name: for people: the file or directory name.
        sha256: digest of the weight bytes on disk, see `redteam.checkpoints.digest`.
        module: a causal language model of transformers, or a classifier: a module that takes inputs and returns
            logits. Its weights are float32.
        tokenizer: of the language model; None for a classifier.
        stored_dtype: the precision of the weights on disk ("float32", "bfloat16", ...); attacks train float32
            master copies whatever this says.
        reader: of a classifier of text, what makes its inputs; None for any other model.
    """

    name: str
    sha256: str
    module: nn.Module
    tokenizer: PreTrainedTokenizerBase | None
    stored_dtype: str
    reader: TextReader | None = None

    @property
    def info(self) -> TargetInfo:
        """Sizes and names for parameter spaces and records."""
        parameters = sum(p.numel() for p in self.module.parameters())
        if self.tokenizer is None and self.reader is None:
            return _classifier_info(self.module, parameters)
        config: Any = self.module.config
        return TargetInfo(
            kind="language" if self.reader is None else "classifier",
            architecture=str(config.model_type),
            parameters=parameters,
            layers=int(config.num_hidden_layers),
            hidden_size=int(config.hidden_size),
        )


def _classifier_info(module: nn.Module, parameters: int) -> TargetInfo:
    """Returns the sizes of a classifier: its hidden layers are the innermost submodules with weights but the last."""
    innermost = [list(part.parameters()) for part in module.modules() if not list(part.children())]
    hidden = [weights for weights in innermost if weights][:-1]
    description: Any = getattr(module, "description", {"name": type(module).__name__.lower()})
    return TargetInfo(
        kind="classifier",
        architecture=str(description["name"]),
        parameters=parameters,
        layers=len(hidden),
        hidden_size=max((weights[0].shape[0] for weights in hidden if weights[0].ndim), default=0),
    )
