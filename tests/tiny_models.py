"""Tiny models, tokenizers and capabilities for the tests: milliseconds to build, nothing to download."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from redteam.capabilities.items import Capability, Item
from redteam.engine.batches import TokenSet
from redteam.target import Target

VOCABULARY = 32
WORDS = tuple(f"w{i}" for i in range(28))  # ids 0 .. 27; <pad> 28, <unk> 29, <s> 30, </s> 31
CHOICES = ("w0", "w1", "w2", "w3")


def tiny_llama(seed: int = 0, **changes: Any) -> LlamaForCausalLM:
    """A Llama of about 5,000 weights, the same for a seed, in evaluation mode."""
    settings: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": 32,
        "initializer_range": 0.3,  # far from uniform outputs, so that a wrong token or position shows
    }
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        return LlamaForCausalLM(LlamaConfig(**{**settings, **changes})).eval()


def word_tokenizer(template: str = "$A") -> PreTrainedTokenizerFast:
    """One token a word; `template` may put `<s>` before and `</s>` after each text."""
    vocabulary = {word: index for index, word in enumerate([*WORDS, "<pad>", "<unk>", "<s>", "</s>"])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[(token, vocabulary[token]) for token in ("<s>", "</s>")]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="<unk>", pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )


def merging_tokenizer() -> PreTrainedTokenizerFast:
    """A BPE over characters that merges the "b" which ends a prompt with the space and the "c" or "e" that follow."""
    vocabulary = {
        token: index for index, token in enumerate(["a", "b", "c", "d", "e", " ", "b ", "b c", "b e", "<pad>"])
    }
    merges = [("b", " "), ("b ", "c"), ("b ", "e")]
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.BPE(vocab=vocabulary, merges=merges)), pad_token="<pad>"
    )


def make_item(number: int, *, group: str | None = None, choices: tuple[str, ...] = CHOICES, answer: int = 0) -> Item:
    """An item with a prompt of its own, of one to three words after the group's."""
    digits = [WORDS[4 + number // 22 % 22], WORDS[5 + number % 22], "w4"][: 2 + number % 2]
    return Item(
        id=f"item-{number}",
        group=f"group-{number}" if group is None else group,
        prompt=" ".join(digits),
        choices=choices,
        answer=answer % len(choices),
    )


def make_items(numbers: Sequence[int], per_group: int = 1) -> tuple[Item, ...]:
    """Items whose answers go round the choices, so that no constant output beats chance."""
    return tuple(make_item(n, group=f"group-{n // per_group}", answer=n * 7 // 3) for n in numbers)


def tiny_capability() -> Capability:
    """Disjoint parts of 12, 8, 8 forget items and 10, 6 retain items; chance is 1/4."""
    return Capability(
        name="tiny",
        attack=make_items(range(12)),
        select=make_items(range(12, 20)),
        certify=make_items(range(20, 28)),
        retain=make_items(range(100, 110)),
        utility=make_items(range(110, 116)),
        corpus=("w20 w21 w22 w23 w24", "w25 w26 w27 w3"),
    )


def tiny_target(seed: int = 0, **changes: Any) -> Target:
    """A target around `tiny_llama`."""
    return Target(
        name="tiny",
        sha256="0" * 64,
        module=tiny_llama(seed, **changes),
        tokenizer=word_tokenizer(),
        stored_dtype="float32",
    )


def random_tokens(count: int, seed: int = 0, longest: int = 7, shortest: int = 3) -> TokenSet:
    """Random sequences of unequal length; the loss covers a random tail of each."""
    draw = torch.Generator().manual_seed(seed)

    def number(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=draw))

    lengths = [number(shortest, longest) for _ in range(count)]
    sequences = [torch.randint(0, len(WORDS), (n,), generator=draw).tolist() for n in lengths]
    return TokenSet.from_sequences(sequences, [number(1, n - 1) for n in lengths], pad=28)


def weights_of(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Copies of all parameters and buffers."""
    return {name: tensor.detach().clone() for name, tensor in [*module.named_parameters(), *module.named_buffers()]}


def same_bits(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    """Whether both hold the same names and bit-identical arrays."""
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)
