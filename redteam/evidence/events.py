"""The events of a run: one schema for what is written and for what is judged.

One event is one line of `events.jsonl`, told apart by its `type`.
A field with a default may be missing: releases before that field did not write it, and the default says what they did.
A field that this schema does not know is refused: it could weaken a verdict, and would not be heard.

A change of the schema raises `SCHEMA`, which the manifest names in `environment`: no part of the plan.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, model_serializer, model_validator

from redteam.evidence import keys
from redteam.record import Record

SCHEMA = 5


class _Record(Record):
    model_config = ConfigDict(strict=True, allow_inf_nan=False)  # no number that is none may reach a comparison


class Event(_Record):
    """What every event has.

    Attributes:
        type: of the event.
        key: names it within its run, see `keys`.
        time: when it was recorded, in seconds since 1970.
    """

    type: str
    key: str
    time: float = 0.0

    def as_row(self) -> dict[str, Any]:
        """Returns the event as it is written. Fields that were never set are left out."""
        return {"type": self.type, "key": self.key, "time": self.time, **self.model_dump(exclude_unset=True)}


class CapabilityEvent(Event):
    """What the run is about, and what was asked for.

    Attributes:
        name: of the capability.
        chance: expected certify score of a model that knows nothing.
        blind: expected certify score of blind draws, at most chance; None where an older release did not record it.
        scorer: that decides.
        also: scorers that do not decide, with their chance.
        wordings: how the first item of the attack split is asked in each further wording.
        groups: fact of each certify item, counted from 0.
        ids: of the certify items.
        sizes: items of each split.
        select_groups: facts of the select split.
        utility_groups: fact of each utility item; None where an older release did not record it.
        utility_chance: expected utility of a model that knows nothing.
        seeds: fresh seeds of each confirmed configuration.
        budget: search trials asked for.
        looks: at this run, at those that it extends, and at runs beside it that had another seed.
        other_seeds: of these runs beside it, when this one began.
        longest: steps up to which the best configurations go on while their curves rise; 0 where none goes on.
        skipped: attacks that do not work on this kind of model, with the reason.
        access: what the adversary has.
        attacks: that are tried.
        attack_access: what each of them needs.
        decoy: kind of the decoy.
        documents: attacks that train on documents of the topic.
        examples: attacks that need examples of what was removed.
        shown: how many of them adversaries have, in turn; () where all have the whole attack split.
        tuned: with how many of them attacks are searched for.
        suite: the protocol; "" of those before `standard-3`, which did not say.
        confirmation: how it is chosen what is confirmed, and judged; 1 of those that chose among what they confirmed.
    """

    type: Literal["capability"] = "capability"
    key: str = keys.CAPABILITY
    name: str
    chance: float
    blind: float | None = None
    scorer: str = "choice"
    also: dict[str, float] = Field(default={})
    wordings: tuple[str, ...] = Field(default=(), strict=False)
    groups: tuple[int, ...] = Field(strict=False)
    ids: tuple[str, ...] = Field(default=(), strict=False)
    sizes: dict[str, int] = Field(default={})
    select_groups: int
    utility_groups: tuple[int, ...] | None = Field(default=None, strict=False)
    utility_chance: float
    seeds: int
    budget: int
    looks: int = 1
    other_seeds: tuple[int, ...] = Field(default=(), strict=False)
    longest: int = 0
    skipped: dict[str, str] = Field(default={})
    access: str = "weights"
    attacks: tuple[str, ...] = Field(default=(), strict=False)
    attack_access: dict[str, str] = Field(default={})
    decoy: str = ""
    documents: tuple[str, ...] = Field(default=(), strict=False)
    examples: tuple[str, ...] = Field(default=(), strict=False)
    shown: tuple[int, ...] = Field(default=(), strict=False)
    tuned: int = 0
    suite: str = ""
    confirmation: int = 1


class GivenModel(_Record):
    """A model that was given.

    Attributes:
        name: of its checkpoint.
        sha256: of its weights.
        files: SHA-256 of its weight files, by name; empty of a module in memory.
    """

    name: str
    sha256: str
    files: dict[str, str]


class ModelsEvent(Event):
    """Which models were given, by role."""

    type: Literal["models"] = "models"
    key: str = keys.MODELS
    given: dict[str, GivenModel]


class _Scored(_Record):
    """Mean scores by split. Those of scorers that do not decide, and of further wordings, are further keys.

    "certify:exact", "certify:wording 1".
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[Annotated[str, Field(pattern=keys.FURTHER)], float] = Field(init=False)
    after: ClassVar[tuple[str, ...]]  # fields that are written after the further keys

    @model_serializer(mode="wrap")
    def _in_order(self, dumped: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        row = dumped(self)
        return row | {name: row.pop(name) for name in self.after if name in row} if self.model_extra else row


ShareOf = Annotated[tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=1)]], Field(strict=False)]


class BeforeEvent(Event, _Scored):
    """A model as it was released, before any attack.

    Attributes:
        select: mean select score; so for certify and utility.
        model: what it is: `TargetInfo`, its dtype, its device.
        unsteady: share of select items of which it says something else when it is asked in other company.
        mode_loss: how its loss on retain items differs between being scored and being trained, in nats, see `ModeGap`.
        mode_gradients: share of its parameters that get a gradient in training mode alone.
        told_apart: how far what it says depends on the item, from 0 to 1; None where choices are not compared.
        lines: as of `PointRecord`.
        sides: mean certify score by the side on which items stand out: above what is usual, below it; mostly ().
        lines_at: where the lines lie that items stand out by, in units of what is usual; mostly ().
        unused: layer -> how many of its channels do nothing on the items at hand, and how many it has.
    """

    after = ("model", "unsteady", "mode_loss", "mode_gradients", "told_apart", "unused", "lines", "sides", "lines_at")
    type: Literal["before"] = "before"
    select: float
    certify: float | None = None
    utility: float
    model: dict[str, Any] = Field(default={})
    unsteady: float = 0.0
    mode_loss: float = 0.0
    mode_gradients: float = 0.0
    told_apart: float | None = None
    lines: tuple[float, ...] = Field(default=(), strict=False)
    sides: tuple[float, ...] = Field(default=(), strict=False)
    lines_at: tuple[float, ...] = Field(default=(), strict=False)
    unused: dict[str, ShareOf] = Field(default={})


class ProbeEvent(Event):
    """What a probe read of a model.

    Attributes:
        probe: its name.
        layer: the place that it read best.
        by_layer: select accuracy at each place; of a probe that reads weights what it found there.
        decides: whether it counts for the verdict.
        chance: what it reads at most where nothing is known; None where that is the chance of the capability.
        notes: further figures, by name.
    """

    type: Literal["probe"] = "probe"
    probe: str
    layer: str
    by_layer: dict[str, float] = Field(default={})
    decides: bool = True
    chance: float | None = None
    notes: dict[str, float] = Field(default={})


class UnprobedNote(Event):
    """That a probe read nothing of a model, and why.

    It `failed` if it decides: what it would have read is not known.
    """

    type: Literal["note"] = "note"
    probe: str
    error: str
    failed: bool = False


class UnfitNote(Event):
    """Attacks that need what the target lacks, with the reason."""

    type: Literal["note"] = "note"
    key: str = keys.UNFIT
    reasons: dict[str, str]


class NoneNote(Event):
    """Why something was not made or done: canaries, a decoy, attacks with examples."""

    type: Literal["note"] = "note"
    error: str


class PointRecord(_Scored):
    """Mean scores of a trial after some cost.

    Attributes:
        steps: spent so far, see `Spent`; so for samples, tokens and flops.
        select: mean score; so for certify and utility.
        asked: how an item of the attack split is asked, where the attack changes that.
        lines: mean certify scores had a fold been left out of what these are held against; () of most scorers.
    """

    after = ("asked", "lines")
    steps: int
    samples: int | float
    tokens: int | float
    flops: int | float
    select: float
    utility: float
    certify: float | None = None
    asked: str | None = None
    lines: tuple[float, ...] = Field(default=(), strict=False)


class Loss(_Record):
    """An attack's own loss, means over the first and the last quarter of its steps."""

    first: float
    last: float


class TrialEvent(Event):
    """One trial, see `TrialResult`.

    Attributes:
        phase: of the search: "recipe", "random", ...; None of a trial that runs a configuration again.
        configuration: number of the configuration that is run again; None in a search.
        value: best select score at the utility floor; None of a failed trial.
        reversible: whether the attack can be switched off for other questions: it works through what is asked, or
            through hooks, and moved no weight. What utility is while it is on then does not matter.
    """

    type: Literal["trial"] = "trial"
    attack: str
    version: int | float | str
    params: dict[str, Any]
    seed: int
    state: Literal["complete", "failed"]
    error: str | None
    diverged: bool
    points: tuple[PointRecord, ...] = Field(strict=False)
    loss: Loss | None
    share_moved: float
    outputs_moved: float = 0.0
    seconds: dict[str, float]
    phase: str | None = None
    configuration: int | None = None
    value: float | None = None
    reversible: bool = False

    @model_validator(mode="after")
    def _says_which(self) -> TrialEvent:
        """Those that do not say which configuration they run again would all be taken for the same."""
        if keys.is_repeat(self.key) and self.configuration is None:
            raise ValueError("a trial that runs a configuration again says which")
        return self


class Choice(_Record):
    """A configuration and where it stops, fixed before any certify item is looked at.

    Attributes:
        attack: its name.
        params: its parameters.
        steps: after which an adversary stops.
        select: mean select score there, over the seeds that it was chosen by.
    """

    attack: str
    params: dict[str, Any]
    steps: int
    select: float


class ChoiceEvent(Event):
    """What is confirmed on a model: chosen by select scores alone, and judged on fresh seeds.

    Attributes:
        released: select score of the released weights: an attack that is no better is confirmed, and not made.
        floor: the strongest attack where utility is kept; None where none keeps it.
        any_utility: the strongest whatever happens to utility; None where none was scored.
    """

    type: Literal["choice"] = "choice"
    released: float
    floor: Choice | None
    any_utility: Choice | None


class FinishedEvent(Event):
    """That the run is over.

    Attributes:
        seal: SHA-256 of its files up to here, by name; None where an older release ended it.
    """

    type: Literal["finished"] = "finished"
    key: str = keys.FINISHED
    seal: dict[str, str] | None = None


KINDS: Mapping[str, type[Event]] = {
    "capability": CapabilityEvent,
    "models": ModelsEvent,
    "before": BeforeEvent,
    "probe": ProbeEvent,
    "trial": TrialEvent,
    "choice": ChoiceEvent,
    "finished": FinishedEvent,
}
NOTES: Mapping[str, type[Event]] = {"reasons": UnfitNote, "probe": UnprobedNote, "error": NoneNote}  # by what they say
