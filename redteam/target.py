"""The model under attack, in memory.

A target is the user's own module as it was loaded, never a re-implementation of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, kw_only=True, slots=True)
class TargetInfo:
    """What an attack may know of a target when it proposes parameters: sizes and names, no weights."""

    architecture: str
    parameters: int
    layers: int
    hidden_size: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """A loaded model.

    Attributes:
        name: for people: the file or directory name.
        sha256: digest of the weight bytes on disk, see `redteam.checkpoints.digest`.
        module: a causal language model of transformers with float32 weights.
        tokenizer: its tokenizer.
        stored_dtype: the precision of the weights on disk ("float32", "bfloat16", ...); attacks train float32
            master copies whatever this says.
    """

    name: str
    sha256: str
    module: nn.Module
    tokenizer: PreTrainedTokenizerBase
    stored_dtype: str

    @property
    def info(self) -> TargetInfo:
        """Sizes and names for parameter spaces and records."""
        config: Any = self.module.config
        return TargetInfo(
            architecture=str(config.model_type),
            parameters=sum(p.numel() for p in self.module.parameters()),
            layers=int(config.num_hidden_layers),
            hidden_size=int(config.hidden_size),
        )
