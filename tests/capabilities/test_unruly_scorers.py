"""A scorer of somebody else's that fails, or does what it must not, is refused in a line and never becomes a score."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from tiny_models import tiny_capability, tiny_target
from torch import Tensor, nn

from redteam import Choice, Encoded, InputError, Item, commonest_answer
from redteam.setting import open_setting


def nothing(module: nn.Module) -> None:
    """What a scorer should do to a model."""


def ends_the_process(module: nn.Module) -> None:
    raise SystemExit(0)


def raises(module: nn.Module) -> None:
    raise RuntimeError("no")


@torch.no_grad()
def changes_a_weight(module: nn.Module) -> None:
    next(module.parameters()).add_(1)


@dataclass(frozen=True)
class Doing:
    """Choices in the form of another scorer, whose table does something first."""

    inner: Any
    deed: Callable[[nn.Module], None]

    def __len__(self) -> int:
        return len(self.inner)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def table(self, module: nn.Module) -> Tensor:
        self.deed(module)
        table: Tensor = self.inner.table(module)
        return table


@dataclass(frozen=True)
class Mine:
    """Scores as `choice` does, and does something besides."""

    deed: Callable[[nn.Module], None] = nothing
    chances: int | None = None
    name: str = "mine"

    version, goal, paper, kinds, needs = 1, "", "", "language", "choices"

    def encode(self, capability: Any, items: Sequence[Item], tokenizer: Any) -> Encoded:
        return Doing(Choice().encode(capability, items, tokenizer), self.deed)

    def chance(self, items: Sequence[Item]) -> list[float]:
        return [0.5] * (len(items) if self.chances is None else self.chances)

    def constant(self, known: Sequence[str], asked: Sequence[str]) -> float:
        return commonest_answer(known, asked)


@pytest.mark.parametrize(
    ("deed", "says"),
    [
        (ends_the_process, "the scorer 'mine' fails (SystemExit: 0)"),
        (raises, "the scorer 'mine' fails (RuntimeError: no)"),
        (changes_a_weight, "the scorer 'mine' changes the model"),
    ],
)
def test_one_that_does_what_it_must_not_is_refused(deed: Callable[[nn.Module], None], says: str) -> None:
    capability = replace(tiny_capability(), scorers=(Choice(), Mine(deed)))
    with pytest.raises(InputError) as caught:
        open_setting(tiny_target(), capability)
    assert says in str(caught.value)


def test_one_that_reads_alone_scores() -> None:
    setting = open_setting(tiny_target(), replace(tiny_capability(), scorers=(Choice(), Mine())))
    assert setting.start["certify:mine"].tolist() == setting.start["certify"].tolist()


@pytest.mark.parametrize("chances", [0, 1000])
def test_one_that_does_not_say_a_chance_for_every_item_is_refused(chances: int) -> None:
    with pytest.raises(InputError, match=f"says {chances} chances"):
        _ = replace(tiny_capability(), scorers=(Mine(chances=chances),)).chance


@pytest.mark.parametrize("name", ["", "a:b", "a@1", "Mine", "a/b", "\nx", "-a"])
def test_a_name_that_would_be_another_key_of_the_evidence_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is no name of a scorer"):
        replace(tiny_capability(), scorers=(Choice(), Mine(name=name)))


def test_one_that_calls_itself_as_one_of_ours_is_refused() -> None:
    with pytest.raises(ValueError, match="as one of redteam's own"):
        replace(tiny_capability(), scorers=(Mine(name="choice"),))
