"""Views for tests of probes: tiny models that know their items or do not, and classifiers that say what is planted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from tiny_models import make_item, tiny_llama, word_tokenizer
from torch import Tensor, nn

from redteam.capabilities.encode import encode_answers
from redteam.capabilities.items import Capability, Item
from redteam.capabilities.reading import encode_scoring
from redteam.capabilities.scorers.contract import item_scores
from redteam.engine.batches import shuffled_batches
from redteam.engine.loop import train
from redteam.engine.optimizers import Tuning
from redteam.engine.seeding import seeded
from redteam.probes.contract import Layers, Part, ProbeContext

# One to three tokens, some begin alike, and none begins another: it would always be the likelier of the two.
WORDS_OF_MANY = ("w0", "w1 w0", "w1 w2 w0", "w3 w2", "w3 w1")
SPLITS = {"attack": (0, 12), "select": (12, 36), "certify": (36, 76), "retain": (100, 110), "utility": (110, 130)}


def no_layers(part: Part) -> Layers:
    """For probes that read no states by themselves."""
    raise AssertionError(f"the states of {part} were asked for")


def view_of(
    module: nn.Module, capability: Capability, *, original: nn.Module | None = None, seed: int = 0
) -> ProbeContext:
    """A view of a model; text is read by the word tokenizer."""
    opened: Callable[[], nn.Module] | None = None if original is None else lambda: original
    tokenizer: Any = word_tokenizer() if capability.inputs is None else None
    return ProbeContext(
        module=module, tokenizer=tokenizer, capability=capability, layers=no_layers, original=opened, seed=seed
    )


def text_items(numbers: Sequence[int], *, many: bool) -> tuple[Item, ...]:
    """Items whose answers go round; with `many` of three to five choices of one to three tokens."""
    choices = [WORDS_OF_MANY[: 3 + n % 3] if many else ("w0", "w1", "w2", "w3")[: 2 + n % 3] for n in numbers]
    return tuple(make_item(n, choices=c, answer=n * 7 // 3) for n, c in zip(numbers, choices, strict=True))


def text_capability(*, many: bool = False) -> Capability:
    """Forget items of 12, 24 and 40, retain items of 10 and 20."""
    parts: dict[str, Any] = {name: text_items(range(*rows), many=many) for name, rows in SPLITS.items()}
    return Capability(name="text", **parts)


def knowing_llama(capability: Capability, *, layers: int = 2, seed: int = 0) -> nn.Module:
    """A tiny Llama that has learned every answer of a capability by heart, in evaluation mode.

    Processors differ in last digits, and training makes much of them: where some answers are missing it goes on.
    """
    module = tiny_llama(seed, hidden_size=32, intermediate_size=64, num_hidden_layers=layers, initializer_range=0.1)
    items = capability.forget + capability.retain + capability.utility
    data = encode_answers(word_tokenizer(), items)
    tuning = Tuning(learning_rate=1e-2, schedule="one-cycle", steps=250, clip=1.0)
    train(module, shuffled_batches(data, 64, seeded(seed, "order")), tuning)
    known = encode_scoring(capability, items, word_tokenizer())
    for more in range(6):
        if item_scores(module, known).mean() == 1:
            break
        train(module, shuffled_batches(data, 64, seeded(more, "more")), replace(tuning, learning_rate=2e-3, steps=100))
    return module.eval()


def planted_classifier(
    select: Tensor, certify: Tensor, answers: tuple[Sequence[int], Sequence[int]]
) -> tuple[nn.Module, Capability]:
    """A classifier whose logits are its inputs, and a capability whose inputs are the logits that are wanted.

    Args:
        select: logits of the select items, [items, classes].
        certify: the same of certify.
        answers: the right classes of both.
    """
    logits = torch.cat([select, certify]).float()
    choices = tuple(f"c{c}" for c in range(logits.shape[1]))
    items = tuple(
        Item(id=f"i{row}", group=f"g{row}", prompt="planted", choices=choices, answer=int(answer), row=row)
        for row, answer in enumerate([*answers[0], *answers[1]])
    )
    parts = {"attack": items[:1], "select": items[: len(select)], "certify": items[len(select) :]}
    inputs = np.ascontiguousarray(logits.numpy())
    return nn.Flatten(), Capability(name="planted", **parts, retain=items[:1], utility=items[:1], inputs=inputs)


def near(scores: Sequence[float], expected: float, *, deviations: float = 4.0) -> bool:
    """Within four standard errors of an expected mean: wrong once in 16,000 draws, and the draws are fixed."""
    return abs(float(np.mean(scores)) - expected) < deviations * float(np.std(scores)) / len(scores) ** 0.5
