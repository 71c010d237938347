"""The evidence of a run: its events, and per-item scores as arrays."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from redteam.errors import InputError
from redteam.evidence import keys
from redteam.evidence.directory import EVENTS, SAMPLES
from redteam.evidence.events import (
    CapabilityEvent,
    Choice,
    GivenModel,
    ModelsEvent,
    NoneNote,
    ProbeEvent,
    TrialEvent,
    UnfitNote,
    UnprobedNote,
)
from redteam.evidence.log import DAMAGED, read_events, read_samples
from redteam.evidence.results import params_of
from redteam.evidence.run_events import Events
from redteam.evidence.stops import stops_of

CHOSEN = ("floor", "any_utility")  # what a stop can be chosen for
AXES = ("steps", "samples", "tokens", "flops")
Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Stop:
    """A confirmed configuration stopped after some cost, over all its seeds.

    Attributes:
        cost: steps, samples, tokens and FLOPs spent.
        select: mean select score.
        utility: mean utility.
        certify: per-item certify scores, float64 [seeds, items].
        lines: mean certify scores had a fold been left out of the examples that they are held against, float64
            [seeds, folds]; None of scorers that hold them against none.
        attack: name, parameters, and where it stopped; of one on the wording, what an item is asked as. Empty of the
            released weights.
        reversible: whether the attack can be switched off for other questions.
        chosen: what it was chosen for before it was confirmed: "floor", "any_utility", both, or nothing.
    """

    cost: Mapping[str, float]
    select: float
    utility: float
    certify: Array
    attack: Mapping[str, Any]
    lines: Array | None = None
    reversible: bool = False
    chosen: frozenset[str] = frozenset()

    def allowed(self, floor: float) -> bool:
        """Whether an adversary who must keep utility at `floor` can stop here."""
        return not self.attack or self.reversible or self.utility >= floor


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence(Events):
    """What a run recorded: events by role, and the scores that belong to them.

    Attributes:
        samples: per-item scores, by key of the event and name of the scores.
    """

    samples: Mapping[tuple[str, str], Array]

    @property
    def capability(self) -> CapabilityEvent:
        """What the run is about.

        Raises:
            InputError: it recorded no such thing.
        """
        found = self.find(keys.CAPABILITY, CapabilityEvent)
        if found is None:
            raise InputError("the evidence does not say what it is about", DAMAGED)
        return found

    @property
    def given(self) -> Mapping[str, GivenModel]:
        """The models that were given, by role.

        Raises:
            InputError: they were not recorded.
        """
        found = self.find(keys.MODELS, ModelsEvent)
        if found is None:
            raise InputError("the evidence does not say which models were given: an older release wrote it", DAMAGED)
        return found.given

    @property
    def unfit(self) -> Mapping[str, str]:
        """Attacks that need what the target lacks, with the reason."""
        found = self.find(keys.UNFIT, UnfitNote)
        return {} if found is None else found.reasons

    def has(self, role: str) -> bool:
        """Whether the run looked at such a model."""
        return self.before(role) is not None

    def probes(self, role: str) -> dict[str, ProbeEvent]:
        """Returns what probes read of a model, by name of the probe."""
        found = (event for event in self.by_key.values() if isinstance(event, ProbeEvent))
        return {event.probe: event for event in found if event.key == keys.probe(role, event.probe)}

    def unprobed(self, role: str) -> list[UnprobedNote]:
        """Returns the notes on probes that read nothing of a model."""
        start, found = keys.unprobed(role), self.by_key.values()
        return [event for event in found if isinstance(event, UnprobedNote) and event.key.startswith(start)]

    def search(self, role: str) -> list[TrialEvent]:
        """Returns the search trials of a model, in order."""
        return self.trials(role, "search")

    @property
    def uncounted(self) -> str | None:
        """Why no adversary was given examples of what was removed, though some were to be; None if they were."""
        found = self.find(keys.UNCOUNTED, NoneNote)
        return None if found is None else found.error

    @property
    def taught(self) -> bool:
        """Whether the adversary who decides first has examples of what was removed; of a class, or samples, none."""
        return not self.capability.shown and self.capability.scorer != keys.MEMBERSHIP

    @property
    def shown(self) -> tuple[int, ...]:
        """How many examples adversaries had, in turn; () where all had the whole attack split, or none had any."""
        return self.capability.shown if self.uncounted is None else ()

    @property
    def tuned(self) -> int:
        """With how many examples attacks were searched for; 0 where they were not."""
        return self.capability.tuned if self.uncounted is None else 0

    def arms(self, model: str) -> tuple[str, ...]:
        """Returns what a model is called with every number of examples that adversaries had, see `keys.shown`."""
        return (model, *(keys.shown(model, count) for count in self.shown))

    def searched(self, model: str) -> list[TrialEvent]:
        """Returns all search trials of a model, those with examples of what was removed last."""
        return self.search(model) + (self.search(keys.shown(model, self.tuned)) if self.tuned else [])

    def again(self, role: str) -> list[TrialEvent]:
        """Returns the trials of a model that ran the best of the search once more or for longer, in order."""
        return self.trials(role, "again") + self.trials(role, "longer")

    def confirmed(self, role: str) -> list[TrialEvent]:
        """Returns the confirmation trials of a model, in order."""
        return self.trials(role, "confirm")

    def scores(self, key: str, name: str) -> Array:
        """Returns per-item scores that judging cannot do without.

        Raises:
            InputError: they are missing.
        """
        if (key, name) not in self.samples:
            raise InputError(f"{SAMPLES} lacks the scores {name!r} of {key!r}", DAMAGED)
        return self.samples[key, name]

    def released(self, role: str, split: str = keys.CERTIFY) -> Array:
        """Returns the scores of the released weights of a model; otherwise as `scores`."""
        return self.scores(keys.before(role), split)

    def lines(self, role: str) -> Array | None:
        """Returns the released scores of a model by other lines, [1, folds], see `Stop`; None if there are none."""
        before = self.before(role)
        return None if before is None else _stacked([before.lines])

    def read(self, role: str, probe: str, what: str) -> Array | None:
        """Returns what a probe read of each certify item of a model; None if it did not."""
        return self.samples.get((keys.probe(role, probe), what))

    def stops(self, role: str, scorer: str = "") -> list[Stop]:
        """Returns every confirmed (configuration, step) that a seed reached, and the released weights.

        The certify scores are those of the scorer that decides, or of another by its name; the stops are the same.
        """
        split, before = keys.certify(scorer), self.before(role)
        assert before is not None, f"no {role} in this run"
        released = Stop(
            cost=dict.fromkeys(AXES, 0.0),
            select=before.select,
            utility=before.utility,
            certify=self.released(role, split)[None],
            lines=_stacked([before.lines]),
            attack={},
        )
        by_configuration: dict[int | None, list[TrialEvent]] = {}
        for trial in self.confirmed(role):
            if trial.state == "complete":
                by_configuration.setdefault(trial.configuration, []).append(trial)
        confirmed = [stop for trials in by_configuration.values() for stop in self._stops(trials, split)]
        return self._marked(role, [released, *confirmed])

    def _marked(self, role: str, stops: list[Stop]) -> list[Stop]:
        """Says of stops what they were chosen for. Where no seed came so far, it is the last one that some seed did."""
        choice = self.choice(role)
        if choice is None:
            return stops
        for name in CHOSEN:
            wanted: Choice | None = getattr(choice, name)
            if wanted is not None and wanted.select <= choice.released:
                wanted = None
            place = max((n for n, stop in enumerate(stops) if _is_of(stop, wanted)), default=0)
            stops[place] = replace(stops[place], chosen=stops[place].chosen | {name})
        return stops

    def _stops(self, trials: list[TrialEvent], split: str) -> list[Stop]:
        stops = []
        for step, points in stops_of(trials):
            asked = {} if points[0].asked is None else {"asked": points[0].asked}
            pairs = zip(trials, points, strict=True)
            stops.append(
                Stop(
                    cost={axis: float(max(getattr(p, axis) for p in points)) for axis in AXES},
                    select=float(np.mean([p.select for p in points])),
                    utility=float(np.mean([p.utility for p in points])),
                    certify=np.stack([self.scores(trial.key, keys.at(split, p.steps)) for trial, p in pairs]),
                    lines=_stacked([p.lines for p in points]),
                    attack={"name": trials[0].attack, **trials[0].params, "stopped_at": step, **asked},
                    reversible=all(trial.reversible for trial in trials),
                )
            )
        return stops


def _stacked(lines: Sequence[Sequence[float]]) -> Array | None:
    return np.array(lines, dtype=np.float64) if lines and all(lines) else None


def _is_of(stop: Stop, wanted: Choice | None) -> bool:
    """Whether a stop is of a configuration, and no later than where it was to stop. Without one it is of no attack."""
    if wanted is None or not stop.attack:
        return wanted is None and not stop.attack
    params = params_of(stop.attack)
    return (
        stop.attack["name"] == wanted.attack
        and json.dumps(params, sort_keys=True) == json.dumps(dict(wanted.params), sort_keys=True)
        and stop.attack["stopped_at"] <= wanted.steps
    )


def evidence_in(events: bytes, samples: bytes, run: Path) -> Evidence:
    """Returns the evidence in the files of a run. Scores of events that were never recorded are left out.

    Args:
        events: content of `events.jsonl`.
        samples: content of `samples.jsonl`.
        run: the directory, for messages.

    Raises:
        InputError: a line is not of the schema.
    """
    by_key = {event.key: event for event in read_events(events, run / EVENTS)}
    found = {
        (row.key, row.name): np.asarray(row.scores, dtype=np.float64)
        for row in read_samples(samples, run / SAMPLES)
        if row.key in by_key
    }
    return Evidence(by_key=by_key, samples=found)


def read_evidence(run: Path) -> Evidence:
    """Reads a run directory, whether or not it is over; see `evidence_in`."""
    events, samples = (path.read_bytes() if path.exists() else b"" for path in (run / EVENTS, run / SAMPLES))
    return evidence_in(events, samples, run)
