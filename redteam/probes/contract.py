"""What a probe is: it reads a model and says whether the capability is still in it. It changes nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import nn

from redteam.capabilities.items import Capability, Item

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Part = Literal["attack", "select", "certify", "retain"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Layers:
    """Hidden states of one split, and what they should reveal.

    Attributes:
        items: the items, in order.
        states: for each place where states are read ("model.layers.3, last" or "layers.1"), one state an item,
            float32 [items, hidden].
    """

    items: tuple[Item, ...]
    states: Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeContext:
    """All that a probe gets: a model that it may run and must leave as it is, and the items.

    Attributes:
        module: the model, in evaluation mode.
        tokenizer: of a language model; None for a classifier.
        capability: what was removed. A probe learns on its attack split, chooses on select, and reports on certify.
        layers: hidden states of a split, read once and kept; raises `UnknownLayers` where they cannot be told.
        original: gives the model before unlearning; None where it was not given. The run shares it, so that it is to be
            left as it is too; where the original itself is probed, it is `module`.
        reference: gives the model that never knew likewise.
        seed: of the reading.
    """

    module: nn.Module
    tokenizer: PreTrainedTokenizerBase | None
    capability: Capability
    layers: Callable[[Part], Layers]
    original: Callable[[], nn.Module] | None = None
    reference: Callable[[], nn.Module] | None = None
    seed: int

    @property
    def kind(self) -> str:
        """What is probed: "language" or "classifier"."""
        return "classifier" if self.tokenizer is None else "language"


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeReading:
    """What a probe found.

    Attributes:
        layer: the place it read best, chosen on the select split; "" of a probe that reads outputs.
        correct: what was read of each certify item, in [0, 1] and in item order: 1 where the right choice was read.
        control: the same for the same probe of answers that were shuffled.
        by_layer: accuracy on the select split for each place; of a probe that reads weights what it found there.
        notes: further figures, by name, for people: "at 1", "bits", ...
        erased: the same as `correct` for the probe trained on states from which the answer was erased, for linear
            probes; empty where erasing promises nothing.
        chance: what `control` is expected to be at most where nothing is known; None where that is what blind guessing
            among the choices gets right.
    """

    layer: str
    correct: tuple[float, ...]
    control: tuple[float, ...]
    by_layer: Mapping[str, float] = field(default_factory=dict)
    notes: Mapping[str, float] = field(default_factory=dict)
    erased: tuple[float, ...] = ()
    chance: float | None = None


class UnusableReading(ValueError):
    """A probe returned what cannot be judged; the message says what is wrong with it."""


def checked(reading: ProbeReading, items: int) -> ProbeReading:
    """Returns a reading that was made of `items` certify items, its numbers as plain floats.

    A number that is none would compare as no leak, so it is no reading.

    Raises:
        UnusableReading: there is not one number in [0, 1] for every item, or another number is not finite.
    """
    return replace(
        reading,
        layer=str(reading.layer),
        correct=_scores("correct", reading.correct, items),
        control=_scores("control", reading.control, items),
        erased=_scores("erased", reading.erased, items) if len(reading.erased) else (),
        by_layer=_figures("by_layer", reading.by_layer),
        notes=_figures("notes", reading.notes),
        chance=None if reading.chance is None else _scores("chance", [reading.chance], 1)[0],
    )


def _scores(name: str, values: Sequence[float], count: int) -> tuple[float, ...]:
    if len(values) != count:
        raise UnusableReading(f"{name} has {len(values)} numbers for {count} certify items")
    found = tuple(float(value) for value in values)
    wrong = next((value for value in found if not 0 <= value <= 1), None)
    if wrong is not None:
        raise UnusableReading(f"{name} holds {wrong:g}, which is not between 0 and 1")
    return found


def _figures(name: str, values: Mapping[str, float]) -> dict[str, float]:
    found = {str(key): float(value) for key, value in values.items()}
    for key, value in found.items():
        if not math.isfinite(value):
            raise UnusableReading(f"{name} says {value} of {key!r}")
    return found


class Probe(Protocol):
    """A probe. Its class attributes are what `redteam list probes` shows.

    Attributes:
        name: unique, lower case.
        version: raised with every change that could move a number.
        goal: one line.
        paper: where it was published.
        kinds: what it reads: "language", "classifier", or "language, classifier".
        needs: models beside the one that is probed: "", "original", or "original, reference".
        decides: whether reading more from the target than from the reference stands in the way of RESISTED. A probe
            that is handed the original says how removal was done, not what an adversary without it can do.
    """

    name: str
    version: int
    goal: str
    paper: str
    kinds: str
    needs: str
    decides: bool

    def read(self, view: ProbeContext) -> ProbeReading:
        """Learns on the attack split, chooses on select, reports on certify."""


def unreadable(probe: Probe, view: ProbeContext) -> str | None:
    """Returns why a probe cannot read a model: of another kind, without a model that it needs, or without choices."""
    if view.kind not in probe.kinds:
        return f"it reads: {probe.kinds}; this is a {view.kind}"
    if any(len(item.choices) < 2 for item in view.capability.certify):
        return "it compares choices; these questions have a right answer and no wrong ones"
    for role in ("original", "reference"):
        if role in probe.needs and getattr(view, role) is None:
            return f"it needs the {role}, which was not given"
    return None
