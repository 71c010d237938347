"""What an attack is: an adversary that changes a model to bring a capability back, and never scores itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import nn

from redteam.access import Access
from redteam.capabilities.wording import Wording
from redteam.engine.batches import Examples, shuffled_batches
from redteam.engine.cost import Ledger, Spent
from redteam.engine.deadline import STEP_LIMIT
from redteam.engine.freezing import still
from redteam.engine.loop import fine_tune
from redteam.engine.modes import in_evaluation_mode
from redteam.engine.optimizers import Tuning
from redteam.engine.seeding import derive_seed, seeded
from redteam.target import TargetInfo

__all__ = ["Access", "Arena", "Attack", "Params", "Suggest", "needs_examples", "step_limit", "unfitness"]

Params = Mapping[str, Any]


class Suggest(Protocol):
    """The part of `optuna.Trial` that a parameter space may use."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """Proposes a float in [low, high]."""

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        """Proposes an integer in [low, high]."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """Proposes one of the choices."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Arena:
    """All that an attack gets: the model, the attack split, and the loop. No held-out item is in here.

    The module may be on an accelerator, or spread over several. Examples are in the processor's memory, and a batch of
    them follows the module; what an attack adds to states or weights it puts where these are.

    Attributes:
        module: the model, at its released weights; changed in place.
        answers: the attack split with the loss on the answers, shuffled by the trial's seed, so that the first n
            sequences are a random sample of n.
        texts: the same sequences with the loss on the whole text.
        retain: items of what must stay, loss on the answers.
        corpus: of a language model, documents of the topic, in windows of one length with the loss on all tokens; None
            where none were given, and an attack that `needs` them is not run.
        ledger: counts what is spent; the harness reads it.
        seed: of this trial.
        in_place: contexts that stay open until the last score of the trial: hooks through which the attack works. What
            is left of an attack when its generator ends is scored once more.
        wording: how a language model is asked; None for a classifier.
        forgotten: numbers of the classes that were removed from a classifier, or that a trigger asks for. Whoever has
            no example of them has retain items as `answers`.
    """

    module: nn.Module
    answers: Examples
    texts: Examples
    retain: Examples
    ledger: Ledger
    seed: int
    in_place: ExitStack = field(default_factory=ExitStack)
    corpus: Examples | None = None
    wording: Wording | None = None
    forgotten: tuple[int, ...] = ()

    @property
    def text(self) -> Wording:
        """How the model is asked, for attacks that work on language models alone.

        Raises:
            ValueError: it is a classifier.
        """
        if self.wording is None:
            raise ValueError("a classifier is not asked in words")
        return self.wording

    def some_retain(self, count: float) -> Examples:
        """Returns so many of the retain items, drawn by the trial's seed; at least one, at most all."""
        order = torch.randperm(len(self.retain), generator=seeded(self.seed, "retain"))
        return self.retain.take(order[: max(1, round(count))])

    def fine_tune(
        self,
        data: Examples,
        batch_size: int,
        tuning: Tuning,
        *,
        only: Callable[[str], bool] | None = None,
        parameters: Sequence[nn.Parameter] | None = None,
    ) -> Iterator[Spent]:
        """Trains the module on `data` through the shared loop, in a batch order drawn from the trial's seed.

        The module trains in evaluation mode, as it is scored: nothing that reads `training` may stand in the way, see
        `in_evaluation_mode`. So batch normalisation keeps to the released running statistics. With those of the forget
        items an attack loses utility before it brings anything back (digits, one class hidden by a bias, AdamW 1e-3:
        0.07 of it at the utility floor, and 1.00 without). An adversary who cannot touch weights cannot touch these.

        Args:
            data: what is trained on.
            batch_size: examples a step.
            tuning: how weights are moved.
            only: which of the module's parameters move, by name; all by default.
            parameters: what moves instead of the module's own, which then stay.
        """
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "batches"))
        batches = shuffled_batches(data, batch_size, generator)
        with nullcontext() if parameters is None else still(self.module):
            held = in_evaluation_mode(self.module, batches)
            yield from fine_tune(self.module, held, tuning, self.ledger, only=only, parameters=parameters)


class Attack(Protocol):
    """An adversary. Its class attributes are what `redteam list attacks` shows.

    Attributes:
        name: unique, lower case.
        version: raised with every change that could move a number.
        goal: one line.
        paper: where it was published.
        access: what it must be able to touch.
        kinds: what it works on: "language", "classifier", or "language, classifier"; an attack that does not say so
            works on both.

    An attack that needs something of a module, layers of a type say, may have a method `unfit(module) -> str | None`:
    why it cannot work on that module. It is then skipped for that reason, see `unfitness`. One that trains on documents
    says `needs = "corpus"`, and is skipped where a capability has none. One that cannot work without examples of what
    was removed says `needs = "forgotten"`; others are given retain items where an adversary has no example.

    One whose steps are long may have a `step_limit`, the seconds that a step may take, see `step_limit`. What takes
    longer is stopped, and the trial has failed.
    """

    name: str
    version: int
    goal: str
    paper: str
    access: Access
    kinds: str

    def space(self, suggest: Suggest, target: TargetInfo, samples: int) -> Params:
        """Proposes parameters; `samples` is the size of the attack split. Keys are the suggested names."""

    def recipes(self, target: TargetInfo, samples: int) -> Sequence[Params]:
        """Published or known-good parameters, best first; each lies within `space`."""

    def run(self, arena: Arena, params: Params) -> Iterator[Spent]:
        """Attacks `arena.module` in place and yields the cumulative cost after each step.

        The harness decides after which steps to score, and may close the generator at any of them.
        """


def step_limit(attack: Attack) -> float:
    """Returns how many seconds an attack may take to start, for each step, and to close; infinity is no limit.

    Raises:
        ValueError: what it says is no number.
    """
    return float(getattr(attack, "step_limit", STEP_LIMIT))


def needs_examples(attack: Attack) -> bool:
    """Returns whether an attack cannot work without examples of what was removed, as it says itself."""
    return "forgotten" in getattr(attack, "needs", "")


def unfitness(attack: Attack, module: nn.Module) -> str | None:
    """Returns why an attack cannot work on a module, as the attack itself says; None if it can."""
    unfit: Callable[[nn.Module], str | None] | None = getattr(attack, "unfit", None)
    return None if unfit is None else unfit(module)
