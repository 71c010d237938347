"""Universal input: one change, added to every input of a classifier, trained on forget items."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from redteam.attacks.contract import Access, Arena, Params, Suggest
from redteam.attacks.tuning import forget_data, recipe, suggest_data, suggest_tuning, tuning_of
from redteam.checkpoints.texts import TextClassifier
from redteam.engine.batches import LabelledSet
from redteam.engine.cost import Spent
from redteam.engine.devices import device_of
from redteam.engine.steering import shorten
from redteam.target import TargetInfo

RATES = {"adamw": (1e-4, 1.0)}


class UniversalInput:
    """Trains one perturbation for all inputs under a norm bound, scored on inputs it never saw.

    x <- x + d, |d| <= b times the mean of |x| on forget items; d lowers the loss on n forget items and is projected
    onto the ball after every step. What a soft prompt is to a language model: an adversary who can do no more than send
    inputs adds it to each. One d cannot tell inputs apart; what does that is still in the model.

    Source: Moosavi-Dezfooli et al. 2017, Universal Adversarial Perturbations (arXiv 1610.08401), trained by gradient as
    in Shafahi et al. 2020, Universal Adversarial Training (arXiv 1811.11304).
    """

    name = "universal-input"
    version = 4
    goal = "trains one bounded change that is added to every input"
    paper = "Moosavi-Dezfooli et al. 2017 (arXiv 1610.08401); Shafahi et al. 2020 (arXiv 1811.11304)"
    access = Access.EMBEDDINGS
    kinds = "classifier"

    def unfit(self, module: nn.Module) -> str | None:
        """Returns why this cannot work on a module: it reads tokens."""
        return "its inputs are tokens, to which no number can be added" if isinstance(module, TextClassifier) else None

    def space(self, suggest: Suggest, target: TargetInfo, samples: int) -> Params:
        """Tuning, data, and the bound."""
        params = suggest_tuning(suggest, RATES) | suggest_data(suggest, samples)
        params["bound"] = suggest.suggest_float("bound", 0.05, 5.0, log=True)
        return params

    def recipes(self, target: TargetInfo, samples: int) -> Sequence[Params]:
        """Changes as long as an input is on average, half, and twice as long."""
        base = {"samples": samples, "loss": "answer"}
        return [recipe("adamw", 0.03, bound=bound, **base) for bound in (1.0, 0.5, 2.0)]

    def run(self, arena: Arena, params: Params) -> Iterator[Spent]:
        """Puts the change in place and trains it on the first `samples` attack items.

        Raises:
            ValueError: the model reads text.
        """
        if not isinstance(arena.answers, LabelledSet):
            raise ValueError("text has no inputs that a number could be added to")
        inputs = arena.answers.inputs  # of standardised ones the mean is next to nothing, and no measure of their size
        added = nn.Parameter(torch.zeros_like(inputs[0], device=device_of(arena.module)))
        arena.in_place.enter_context(shifted(arena.module, added))
        most = params["bound"] * float(inputs.flatten(1).norm(dim=1).mean())
        data = forget_data(arena, params)
        for spent in arena.fine_tune(data, params["batch_size"], tuning_of(params), parameters=[added]):
            shorten(added, most)
            yield spent


@contextmanager
def shifted(module: nn.Module, added: Tensor) -> Iterator[None]:
    """While open, a module reads its first input plus a tensor of the shape of one sample."""

    def before(_module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (args[0] + added, *args[1:])

    with module.register_forward_pre_hook(before):
        yield
