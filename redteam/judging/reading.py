"""Evidence as arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from redteam.evidence.directory import EVENTS, SAMPLES
from redteam.evidence.log import read_rows
from redteam.evidence.stops import stops_of
from redteam.judging.statistics import Array

ROLES = ("original", "taught", "target", "reference", "canary", "decoy")
AXES = ("steps", "samples", "tokens", "flops")
Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Stop:
    """A confirmed configuration stopped after some cost, over all its seeds.

    Attributes:
        cost: steps, samples, tokens and FLOPs spent.
        select: mean select score.
        utility: mean utility.
        certify: per-item certify scores, float64 [seeds, items].
        attack: name, parameters, and where it stopped; of one on the wording, what an item is asked as.
    """

    cost: Mapping[str, float]
    select: float
    utility: float
    certify: Array
    attack: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """What a run recorded.

    Attributes:
        facts: events other than trials, by key.
        trials: trial events, by key.
        samples: per-item scores, by (key, name).
    """

    facts: Mapping[str, Row]
    trials: Mapping[str, Row]
    samples: Mapping[tuple[str, str], Array]

    def search(self, role: str) -> list[Row]:
        """Returns the search trials of a model, in order."""
        return [row for key, row in sorted(self.trials.items()) if key.startswith(f"{role}/search/")]

    def again(self, role: str) -> list[Row]:
        """Returns the trials of a model that ran the best of the search once more, in order."""
        return [row for key, row in sorted(self.trials.items()) if key.startswith(f"{role}/again/")]

    def confirmed(self, role: str) -> list[Row]:
        """Returns the confirmation trials of a model, in order."""
        return [row for key, row in sorted(self.trials.items()) if key.startswith(f"{role}/confirm/")]

    def stops(self, role: str, scorer: str = "") -> list[Stop]:
        """Returns every confirmed (configuration, step) that a seed reached, and the released weights.

        The certify scores are those of the scorer that decides, or of another by its name; the stops are the same.
        """
        before = self.facts[f"{role}/before"]
        released = Stop(
            cost=dict.fromkeys(AXES, 0.0),
            select=before["select"],
            utility=before["utility"],
            certify=self.samples[f"{role}/before", _split(scorer)][None],
            attack={},
        )
        by_configuration: dict[int, list[Row]] = {}
        for row in self.confirmed(role):
            if row["state"] == "complete":
                by_configuration.setdefault(row["configuration"], []).append(row)
        return [released, *(stop for rows in by_configuration.values() for stop in self._stops(rows, _split(scorer)))]

    def _stops(self, rows: list[Row], split: str) -> list[Stop]:
        stops = []
        for step, points in stops_of(rows):
            asked = {"asked": points[0]["asked"]} if "asked" in points[0] else {}
            certify = [self.samples[row["key"], f"{split}@{p['steps']}"] for row, p in zip(rows, points, strict=True)]
            stops.append(
                Stop(
                    cost={axis: float(max(p[axis] for p in points)) for axis in AXES},
                    select=float(np.mean([p["select"] for p in points])),
                    utility=float(np.mean([p["utility"] for p in points])),
                    certify=np.stack(certify),
                    attack={"name": rows[0]["attack"], **rows[0]["params"], "stopped_at": step, **asked},
                )
            )
        return stops


def _split(scorer: str) -> str:
    return f"certify:{scorer}" if scorer else "certify"


def read_evidence(run: Path) -> Evidence:
    """Reads a run directory. Rows of trials that were never finished are left out."""
    facts: dict[str, Row] = {}
    trials: dict[str, Row] = {}
    for row in read_rows(run / EVENTS):
        (trials if row["type"] == "trial" else facts)[row["key"]] = row
    known = facts.keys() | trials.keys()
    samples = {
        (row["key"], row["name"]): np.asarray(row["scores"], dtype=np.float64)
        for row in read_rows(run / SAMPLES)
        if row["key"] in known
    }
    return Evidence(facts=facts, trials=trials, samples=samples)
