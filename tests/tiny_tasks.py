"""Tiny unlearning tasks for the tests, of language and of classification: untrained models, random data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from tiny_models import random_tokens, tiny_llama, weights_of
from torch import nn

from redteam.engine.batches import Examples, LabelledSet, TokenSet
from redteam.engine.optimizers import Tuning
from redteam.engine.training import Training
from redteam.unlearning.contract import UnlearningTask

FEATURES, CLASSES = 6, 4


def tiny_classifier(seed: int = 0) -> nn.Sequential:
    """A perceptron of two hidden layers, the same for a seed, in evaluation mode."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        layers = (nn.Linear(FEATURES, 12), nn.ReLU(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, CLASSES))
        return nn.Sequential(*layers).eval()


def random_labelled(count: int, seed: int = 0) -> LabelledSet:
    """Normal inputs with labels drawn apart from them."""
    draw = torch.Generator().manual_seed(seed)
    return LabelledSet(
        torch.randn(count, FEATURES, generator=draw), torch.randint(0, CLASSES, (count,), generator=draw)
    )


def tiny_model_of(kind: str, seed: int = 0) -> nn.Module:
    """A tiny model of the kind "language" or "classifier"."""
    return {"language": tiny_llama, "classifier": tiny_classifier}[kind](seed)


def random_data(kind: str, count: int, seed: int) -> Examples:
    """Random examples for `tiny_model_of` that kind."""
    return {"language": random_tokens, "classifier": random_labelled}[kind](count, seed)


def joined(first: Examples, second: Examples) -> Examples:
    """Both sets in one."""
    if isinstance(first, LabelledSet):
        pairs = ((first.inputs, second.inputs), (first.labels, second.labels))
        return LabelledSet(*(torch.cat(pair) for pair in pairs))
    width = min(first.input_ids.shape[1], second.input_ids.shape[1])
    assert width == first.input_ids.shape[1] == second.input_ids.shape[1]
    names = ("input_ids", "labels", "lengths")
    return TokenSet(*(torch.cat([getattr(first, name), getattr(second, name)]) for name in names))


def tensors_of(data: Examples) -> tuple[torch.Tensor, ...]:
    """Copies of the tensors a data set is made of."""
    names = ("inputs", "labels") if isinstance(data, LabelledSet) else ("input_ids", "labels", "lengths")
    return tuple(getattr(data, name).clone() for name in names)


def tiny_training(kind: str, forget: Examples, retain: Examples, **changes: Any) -> Training:
    """A recipe of four steps whose data are the forget examples, labelled, and the retain examples."""
    given: dict[str, Any] = {
        "build": lambda seed: tiny_model_of(kind, seed),
        "data": joined(forget, retain),
        "labelled": torch.arange(len(forget) + len(retain)) < len(forget),
        "tuning": Tuning(learning_rate=1e-2, steps=4, clip=1.0),
        "batch_size": 8,
    }
    return Training(**{**given, **changes})


def output_layer(module: nn.Module) -> nn.Linear:
    """The last layer that holds weights."""
    found: nn.Linear = [part for part in module.modules() if isinstance(part, nn.Linear)][-1]
    return found


def tiny_task(kind: str = "language", original: nn.Module | None = None, seed: int = 0, **changes: Any):
    """Of an untrained model, where "known" is whether the output layer is still the original's."""
    original = tiny_model_of(kind) if original is None else original
    head = output_layer(original).weight.detach().clone()
    forget, retain = random_data(kind, 20, seed=1), random_data(kind, 24, seed=2)
    known: Callable[[nn.Module], float] = lambda module: float(torch.equal(output_layer(module).weight, head))  # noqa: E731
    given: dict[str, Any] = {
        "original": original,
        "forget": forget,
        "retain": retain,
        "known": known,
        "training": tiny_training(kind, forget, retain),
        "seed": seed,
    }
    return UnlearningTask(**{**given, **changes})


def moved(before: nn.Module, after: nn.Module) -> set[str]:
    """Names of the parameters and buffers that differ."""
    then, now = weights_of(before), weights_of(after)
    assert then.keys() == now.keys()
    return {name for name in then if not torch.equal(then[name], now[name])}


def hooks_of(module: nn.Module) -> int:
    """How many hooks of any kind hang on a module and its parts."""
    kinds = [name for name in vars(module) if name.endswith("_hooks")]
    return sum(len(getattr(part, kind)) for part in module.modules() for kind in kinds)
