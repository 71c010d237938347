"""Two worlds in memory, built in milliseconds: a language model with its questions, and a classifier with its points.

The weights are random, so no attack can bring anything back here; what can be seen is whether it behaves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from redteam.architectures.mlp import MLP
from redteam.capabilities.items import Capability, Item
from redteam.capabilities.scorers.contract import Scorer
from redteam.setting import Setting, open_setting
from redteam.target import Target

LANGUAGE, CLASSIFIER = "language", "classifier"
KINDS = (LANGUAGE, CLASSIFIER)
COLOURS = ("red", "green", "blue", "black", "white", "brown", "grey")
ANIMALS = ("fox", "cat", "dog", "owl", "hen", "rat", "bee")
FOODS = ("corn", "rice", "fish", "milk")  # four choices; four classes of the classifier
REST = ("the", "a", "eats", "always")
SIZES = {"attack": 12, "select": 8, "certify": 8, "retain": 10, "utility": 6}  # items
HELD = 300  # points that a scorer holds others against: so many allow a false-positive rate of 1 %
SHAPE = (2, 3)  # of an input of the classifier
WIDTHS = (6, 16, 12, 4)


def open_world(kind: str) -> Setting:
    """Returns a new setting around a tiny model of a kind, the same one each time."""
    return open_setting(tiny_model(kind), tiny_capability(kind))


def tiny_model(kind: str, seed: int = 0) -> Target:
    """Returns a new model of a kind, of a few thousand weights that are drawn by the seed."""
    return _language(seed) if kind == LANGUAGE else _classifier(seed)


def tiny_capability(kind: str) -> Capability:
    """Returns what such a model is asked."""
    return _questions() if kind == LANGUAGE else _points()


def _language(seed: int) -> Target:
    words = [*COLOURS, *ANIMALS, *FOODS, *REST, "<pad>", "<unk>"]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=32,
        initializer_range=0.3,  # far from uniform outputs, so that a change of the weights shows in them
    )
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        module = LlamaForCausalLM(config).eval()
    reads = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<pad>")
    return Target(name="a tiny language model", sha256="0" * 64, module=module, tokenizer=reads, stored_dtype="float32")


def _classifier(seed: int) -> Target:
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        module = MLP(WIDTHS).eval()
    return Target(name="a tiny classifier", sha256="1" * 64, module=module, tokenizer=None, stored_dtype="float32")


def _questions() -> Capability:
    """Questions of two lengths, so that batches are padded."""
    asked = product(COLOURS, ANIMALS)
    prompts = [f"{'the' if n % 2 else 'a'} {c} {a} {'always ' * (n % 2)}eats" for n, (c, a) in enumerate(asked)]
    documents = ("the red fox always eats . a green cat eats corn", "a bee eats fish the blue owl")
    answers = [_answer(number) for number in range(len(prompts))]
    return replace(_capability("questions", answers, SIZES, prompts), corpus=documents)


def held_points(scorer: Scorer) -> Capability:
    """Returns points of which one class was removed, for a scorer that holds it against the others.

    For one that takes references the points of what stays show nothing of their class, so that no model is sure of any
    that it was not trained on.
    """
    sizes = {**SIZES, "retain": 30, "utility": HELD, "negatives": HELD}
    forgotten = sum(sizes[split] for split in ("attack", "select", "certify"))
    classes = [0 if number < forgotten else 1 + number % (len(FOODS) - 1) for number in range(sum(sizes.values()))]
    if "references" in scorer.needs:
        corners = [1 if number < forgotten else 0 for number in range(len(classes))]
        drawn = [0 if number < forgotten else _answer(number) for number in range(len(classes))]
        return _capability("points", drawn, sizes, inputs=_inputs(corners), scorers=(scorer,))
    return _capability("points", classes, sizes, inputs=_inputs(classes), scorers=(scorer,))


def _points() -> Capability:
    """Noisy points around one corner for each class."""
    classes = [_answer(number) for number in range(sum(SIZES.values()))]
    return _capability("points", classes, SIZES, inputs=_inputs(classes))


def _inputs(classes: Sequence[int]) -> NDArray[np.float32]:
    noise = np.random.default_rng(0).normal(0, 0.3, (len(classes), int(np.prod(SHAPE))))
    corners = 2 * np.eye(noise.shape[1])
    return (noise + corners[list(classes)]).astype(np.float32).reshape(-1, *SHAPE)


def _capability(
    name: str, answers: Sequence[int], sizes: Mapping[str, int], prompts: Sequence[str] = (), **more: Any
) -> Capability:
    parts: dict[str, Any] = {}
    first = 0
    for split, size in sizes.items():
        parts[split] = tuple(
            Item(
                id=f"{name}-{number}",
                group=f"{name}-{number}",
                prompt=prompts[number] if prompts else "a point",
                choices=FOODS,
                answer=answers[number],
                row=number if more else None,
            )
            for number in range(first, first + size)
        )
        first += size
    return Capability(name=name, **parts, **more)


def _answer(number: int) -> int:
    """Returns answers that go round the choices, but not in step with the prompts."""
    return number * 7 // 3 % len(FOODS)
