from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from redteam.checkpoints.load import open_target
from redteam.checkpoints.save import save_checkpoint
from redteam.errors import InputError


def make_module(seed: int = 0, **changes: Any) -> LlamaForCausalLM:
    settings: dict[str, Any] = {
        "vocab_size": 32,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 32,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(LlamaConfig(**{**settings, **changes})).eval()


def make_tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {f"w{i}": i for i in range(30)} | {"<unk>": 30, "<pad>": 31}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", pad_token="<pad>")


@torch.no_grad()
def logits_of(module: torch.nn.Module) -> torch.Tensor:
    return module(torch.arange(24).reshape(2, 12)).logits


@pytest.fixture
def module() -> LlamaForCausalLM:
    return make_module()


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    return make_tokenizer()


@pytest.fixture
def described(tmp_path: Path, module: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> Path:
    """A directory with config.json and tokenizer, and no weights."""
    folder = tmp_path / "described"
    module.config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def saved(tmp_path: Path, module: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> Callable[[str], Path]:
    """Saves the tiny model under a name in a directory of its own and returns the path."""

    def save(name: str) -> Path:
        path = tmp_path / "saved" / name
        save_checkpoint(path, module, tokenizer)
        return path

    return save


@pytest.fixture
def refusal() -> Callable[..., str]:
    """Opens a path, which must be refused in one safe line, and returns that line."""

    def refuse(path: Path, **options: Any) -> str:
        with pytest.raises(InputError) as caught:
            open_target(path, **options)
        message = str(caught.value)
        assert len(message.splitlines()) == 1
        assert "weights_only" not in message
        assert len(message) < 900
        return message

    return refuse


@pytest.fixture
def make() -> Callable[..., LlamaForCausalLM]:
    return make_module


@pytest.fixture
def logits() -> Callable[[torch.nn.Module], torch.Tensor]:
    return logits_of
