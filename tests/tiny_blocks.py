"""Tiny models of further architectures, and what a model of any kind says of one fixed input."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, GPTNeoXConfig, GPTNeoXForCausalLM

from redteam.engine.seeding import seeded

SMALL: dict[str, Any] = {"vocab_size": 32, "bos_token_id": 0, "eos_token_id": 0}


def tiny_neox() -> nn.Module:
    """A GPT-NeoX with 24 hidden units a block, in evaluation mode."""
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        return GPTNeoXForCausalLM(GPTNeoXConfig(**SMALL, **shape, initializer_range=0.3)).eval()


def tiny_gpt2() -> nn.Module:
    """A GPT-2 with 24 hidden units a block, in evaluation mode."""
    shape = {"n_embd": 16, "n_inner": 24, "n_layer": 2, "n_head": 2, "n_positions": 32}
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        return GPT2LMHeadModel(GPT2Config(**SMALL, **shape, initializer_range=0.3)).eval()


@torch.no_grad()
def outputs(module: nn.Module) -> torch.Tensor:
    """Logits of a fixed random input."""
    if isinstance(module, nn.Sequential):
        return module(torch.randn(5, 6, generator=seeded(1)))
    return module(torch.randint(0, 32, (5, 7), generator=seeded(1))).logits
