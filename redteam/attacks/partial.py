"""Partial fine-tuning: only some of the weights move."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn

from redteam.attacks.contract import Access, Arena, Params, Suggest
from redteam.attacks.tuning import at_width, forget_data, recipe, suggest_data, suggest_tuning, tuning_of
from redteam.engine.activations import hidden_layers, unknown_layers
from redteam.engine.cost import Spent
from redteam.target import TargetInfo

RATES = {"adamw": (1e-6, 1e-1), "sgd": (1e-4, 10.0), "relative": (1e-6, 1e-1), "relative-adam": (1e-6, 1e-1)}
PARTS = {
    "language": ["early layers", "late layers", "norms and biases", "embeddings"],
    "classifier": ["early layers", "late layers", "biases"],
}


class Partial:
    """Fine-tunes the early or the late layers, the norms and biases, or the embeddings alone, on n forget items.

    What a method moved may lie in a few layers; a change confined elsewhere, or to a few thousand weights, keeps
    utility where full fine-tuning loses it.

    Source: Deeb & Roger 2024 (arXiv 2410.08827) freeze layers while retraining; norms and biases alone as in
    Ben Zaken et al. 2021, BitFit (arXiv 2106.10199).
    """

    name = "partial"
    version = 3
    goal = "fine-tuning of chosen layers, of norms and biases, or of embeddings only"
    paper = "Deeb & Roger 2024 (arXiv 2410.08827); Ben Zaken et al. 2021, BitFit (arXiv 2106.10199)"
    access = Access.WEIGHTS
    kinds = "language, classifier"

    def unfit(self, module: nn.Module) -> str | None:
        """Returns why this cannot work on a module: its hidden layers cannot be told."""
        return unknown_layers(module)

    def space(self, suggest: Suggest, target: TargetInfo, samples: int) -> Params:
        """Tuning, data, and which part moves."""
        params = suggest_tuning(suggest, RATES) | suggest_data(suggest, samples)
        params["part"] = suggest.suggest_categorical("part", PARTS[target.kind])
        return params

    def recipes(self, target: TargetInfo, samples: int) -> Sequence[Params]:
        """Each part once, at a rate that suits its size: fewer weights take a higher one.

        Norms and biases are no matrices, but their rate falls with the width too: Ben Zaken et al. 2021 train biases at
        1e-4 to 1e-3 at widths of 768 and 1024, where 1e-2 here comes to 1e-3.
        """
        base: dict[str, Any] = {"samples": samples, "loss": "answer"}
        few = {"norms and biases", "biases"}
        parts = [recipe("adamw", 1e-2 if part in few else 1e-3, part=part, **base) for part in PARTS[target.kind]]
        return at_width(parts, target, RATES)

    def run(self, arena: Arena, params: Params) -> Iterator[Spent]:
        """Trains one part on the first `samples` attack items.

        Raises:
            ValueError: the model has no such part.
        """
        moved = parameters_of(arena.module, params["part"])
        yield from arena.fine_tune(
            forget_data(arena, params), params["batch_size"], tuning_of(params), only=lambda name: name in moved
        )


def parameters_of(module: nn.Module, part: str) -> frozenset[str]:
    """Returns the names of the parameters of a part of `PARTS`.

    The early layers are the first half of the hidden layers; the late layers all that is neither early nor an input
    embedding: of a model with one hidden layer that is its output layer. A tied output layer is an embedding. Where
    there are no biases, the norms stand for them.

    Raises:
        ValueError: the module has none.
    """
    names = [name for name, _ in module.named_parameters()]
    if part in ("early layers", "late layers"):
        layers = hidden_layers(module)
        early = layers[: max(1, len(layers) // 2)]
        first = {name for name in names if any(name.startswith(f"{layer}.") for layer in early)}
        found = first if part == "early layers" else set(names) - first - _of_type(module, nn.Embedding)
    elif part == "embeddings":
        found = _of_type(module, nn.Embedding)
    else:
        found = {name for name in names if name.endswith("bias")}
        if part == "norms and biases" or not found:
            found |= {f"{n}.{p}" for n, m in module.named_modules() if _norm(m) for p, _ in m.named_parameters()}
    if not found:
        raise ValueError(f"the model has no {part}")
    return frozenset(found)


def _of_type(module: nn.Module, kind: type[nn.Module]) -> set[str]:
    found = [(name, part) for name, part in module.named_modules() if isinstance(part, kind)]
    return {f"{name}.{own}" for name, part in found for own, _ in part.named_parameters()}


def _norm(module: nn.Module) -> bool:
    """Whether a module normalises: every architecture has a class of its own, and all are called so."""
    return "norm" in type(module).__name__.lower() and not list(module.children())
