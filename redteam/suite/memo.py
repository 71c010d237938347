"""What runs of one process have found already, so that runs which share models do not repeat each other's work."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from redteam.probes.contract import ProbeReading
from redteam.trial import TrialResult, TrialSpec

Key = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Memo:
    """Results by all that they depend on. In memory only: a run directory holds its own evidence, whole.

    `run_trial` is a pure function of the weights, the items, the attack, its parameters and the seed, so a result
    that is taken from here is the one that the trial would have given, its seconds apart.
    """

    trials: dict[Key, TrialResult] = field(default_factory=dict)
    readings: dict[Key, ProbeReading] = field(default_factory=dict)

    def trial(self, model: Key, version: int | str, spec: TrialSpec, run: Callable[[], TrialResult]) -> TrialResult:
        """Returns the result of a trial, from here if it was run before.

        Args:
            model: says which weights the trial starts from, and on which items it is scored.
            version: of the attack.
            spec: of the trial; its key plays no part.
            run: runs it.
        """
        key = (*model, spec.attack, str(version), _text(spec.params), str(spec.seed), str(spec.certify))
        if key not in self.trials:
            self.trials[key] = run()
        return replace(self.trials[key], spec=spec)

    def reading(self, model: Key, probe: Key, read: Callable[[], ProbeReading]) -> ProbeReading:
        """Returns what a probe (name, version and seed) reads from a model, from here if it was read before."""
        key = (*model, *probe)
        if key not in self.readings:
            self.readings[key] = read()
        return self.readings[key]


def _text(params: Mapping[str, Any]) -> str:
    return json.dumps(dict(params), sort_keys=True)
