"""Training a small Llama model from scratch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from redteam.engine.batches import TokenSet, shuffled_batches
from redteam.engine.loop import train
from redteam.engine.optimizers import Tuning
from redteam.engine.seeding import derive_seed, seeded
from redteam.unlearning.contract import Progress

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
    """

    hidden_size: int
    layers: int
    steps: int
    batch_size: int
    learning_rate: float


def train_from_scratch(
    data: TokenSet,
    tokenizer: PreTrainedTokenizerBase,
    recipe: Recipe,
    *,
    seed: int,
    progress: Progress,
    what: str = "training",
) -> nn.Module:
    """Returns a new model trained on `data`, in evaluation mode. Deterministic for a seed and a thread count."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.hidden_size,
        intermediate_size=2 * recipe.hidden_size,
        num_hidden_layers=recipe.layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=max(64, data.input_ids.shape[1]),
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(derive_seed(seed, "weights"))
        module: nn.Module = LlamaForCausalLM(config)
    tuning = Tuning(learning_rate=recipe.learning_rate, schedule="one-cycle", steps=recipe.steps, clip=1.0)
    batches = shuffled_batches(data, recipe.batch_size, seeded(seed, "order"))
    train(module, batches, tuning, on_step=lambda done: progress(what, done, recipe.steps))
    return module
