"""Training a small Llama model from scratch."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from redteam.engine.batches import TokenSet
from redteam.engine.optimizers import Tuning
from redteam.engine.training import Training

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """Shape of the model and how it is trained: AdamW, one cycle, no weight decay, clipped at norm 1.

    Attributes:
        hidden_size: width; four heads, MLPs twice as wide.
        layers: decoder layers.
        steps: optimizer steps.
        batch_size: sequences a step.
        learning_rate: its peak.
        positions: tokens that the model can read at least; more where the data is longer.
    """

    hidden_size: int
    layers: int
    steps: int
    batch_size: int
    learning_rate: float
    positions: int = 64


def llama_training(data: TokenSet, tokenizer: PreTrainedTokenizerBase, recipe: Recipe) -> Training:
    """Returns how a Llama model is trained on `data` from random weights; nothing is labelled."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.hidden_size,
        intermediate_size=2 * recipe.hidden_size,
        num_hidden_layers=recipe.layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=max(recipe.positions, data.input_ids.shape[1]),
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )

    def build(seed: int) -> nn.Module:
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(seed)
            module: nn.Module = LlamaForCausalLM(copy.deepcopy(config))
        return module

    return Training(
        build=build,
        data=data,
        labelled=torch.zeros(len(data), dtype=torch.bool),
        tuning=Tuning(learning_rate=recipe.learning_rate, schedule="one-cycle", steps=recipe.steps, clip=1.0),
        batch_size=recipe.batch_size,
    )
