"""Evidence as arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from redteam.evidence.directory import EVENTS, SAMPLES
from redteam.evidence.log import read_rows
from redteam.judging.statistics import Array

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
        attack: name and parameters.
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

    def confirmed(self, role: str) -> list[Row]:
        """Returns the confirmation trials of a model, in order."""
        return [row for key, row in sorted(self.trials.items()) if key.startswith(f"{role}/confirm/")]

    def stops(self, role: str) -> list[Stop]:
        """Returns every confirmed (configuration, step) that all seeds reached, and the released weights."""
        before = self.facts[f"{role}/before"]
        released = Stop(
            cost=dict.fromkeys(AXES, 0.0),
            select=before["select"],
            utility=before["utility"],
            certify=self.samples[f"{role}/before", "certify"][None],
            attack={},
        )
        by_configuration: dict[int, list[Row]] = {}
        for row in self.confirmed(role):
            if row["state"] == "complete":
                by_configuration.setdefault(row["configuration"], []).append(row)
        return [released, *(stop for rows in by_configuration.values() for stop in self._stops(rows))]

    def _stops(self, rows: list[Row]) -> list[Stop]:
        by_step = [{p["steps"]: p for p in row["points"]} for row in rows]
        shared = sorted(set.intersection(*(set(points) for points in by_step)) - {0})
        return [
            Stop(
                cost={axis: float(np.mean([points[step][axis] for points in by_step])) for axis in AXES},
                select=float(np.mean([points[step]["select"] for points in by_step])),
                utility=float(np.mean([points[step]["utility"] for points in by_step])),
                certify=np.stack([self.samples[row["key"], f"certify@{step}"] for row in rows]),
                attack={"name": rows[0]["attack"], **rows[0]["params"], "stopped_at": step},
            )
            for step in shared
        ]


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
