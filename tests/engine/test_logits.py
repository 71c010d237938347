"""Logits of some positions are what a model says there when it is asked for all."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_models import random_tokens, tiny_llama
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from redteam.engine.batches import IGNORED
from redteam.engine.logits import logits_at

COLUMNS = torch.tensor([1, 4])


def tiny_gpt2() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=32, n_positions=32, n_embd=16, n_layer=2, n_head=2)).eval()


class WithoutChoice(nn.Module):
    """A model whose forward method takes no positions."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = tiny_llama()

    def forward(self, input_ids: torch.Tensor, attention_mask: Any = None, use_cache: bool = False) -> Any:
        return self.inner(input_ids=input_ids, attention_mask=attention_mask, use_cache=use_cache)


def computed(module: nn.Module, ids: torch.Tensor, columns: torch.Tensor | None) -> tuple[torch.Tensor, int]:
    """Returns the logits, and of how many positions the output head made them."""
    counts: list[int] = []
    head = (module.inner if isinstance(module, WithoutChoice) else module).get_output_embeddings()  # type: ignore[operator]
    handle = head.register_forward_hook(lambda _module, _given, output: counts.append(output.shape[1]))
    said = logits_at(module, ids, None, columns)
    handle.remove()
    (count,) = counts
    return said, count


@pytest.mark.parametrize("make", [tiny_llama, tiny_gpt2, WithoutChoice])
def test_some_positions_say_what_they_say_among_all(make: Any) -> None:
    module, ids = make(), random_tokens(5, shortest=7).batch(slice(None)).input_ids
    everything, asked = computed(module, ids, None)
    assert asked == ids.shape[1] == 7
    some, asked = computed(module, ids, COLUMNS)
    assert asked == (7 if make is WithoutChoice else 2)
    assert torch.allclose(some, everything[:, COLUMNS], atol=1e-6)


def longer(module: Any) -> list[Any]:
    """Puts a token before the input, and takes what is said of it from the output: a prompt of an attack's own."""

    def before(_module: nn.Module, args: Any, given: dict[str, Any]) -> Any:
        ids = given["input_ids"]
        return args, {**given, "input_ids": torch.cat([torch.full((len(ids), 1), 3), ids], dim=1)}

    def after(_module: nn.Module, _given: Any, output: Any) -> Any:
        output.logits = output.logits[:, 1:]
        return output

    return [module.register_forward_pre_hook(before, with_kwargs=True), module.register_forward_hook(after)]


def doubled(module: Any) -> None:
    """Puts a forward method of its own in place of the module's: it reads every token twice."""
    forward = module.forward
    module.forward = lambda input_ids, **given: forward(input_ids=input_ids.repeat_interleave(2, dim=1), **given)


@pytest.mark.parametrize("change", [longer, doubled, lambda m: m.get_input_embeddings().register_forward_hook(shifted)])
def test_what_changes_the_input_is_asked_for_everything(change: Any) -> None:
    """The positions that were meant are those of the input: of another they would silently be others."""
    module, ids = tiny_llama(), random_tokens(5, shortest=7).batch(slice(None)).input_ids
    change(module)
    everything, _ = computed(module, ids, None)
    some, asked = computed(module, ids, COLUMNS)
    assert asked > len(COLUMNS)
    assert torch.equal(some, everything[:, COLUMNS])


def shifted(_module: nn.Module, _given: Any, output: torch.Tensor) -> torch.Tensor:
    return output.roll(1, dims=1)


@pytest.mark.parametrize("seed", range(3))
def test_the_loss_is_that_over_all_positions(seed: int) -> None:
    module, batch = tiny_llama(seed), random_tokens(6, seed).batch(slice(None))
    said = module(input_ids=batch.input_ids, attention_mask=batch.mask, labels=batch.labels)
    assert batch.loss(module).item() == pytest.approx(said.loss.item(), rel=1e-5)
    labels = batch.labels[:, 1:]
    right = said.logits[:, :-1][labels != IGNORED]
    assert torch.allclose(batch.predictions(module).logits, right, atol=1e-6)
