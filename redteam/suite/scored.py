"""What models score as they are: no attack, and no verdict."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from redteam.capabilities.items import Capability, Item, group_numbers
from redteam.capabilities.scorers.contract import Scores
from redteam.evidence import keys
from redteam.evidence.directory import RunDirectory
from redteam.evidence.scored import CapabilityScores, ModelScores
from redteam.judging.statistics import Resampling, mean_bounds
from redteam.record import Interval
from redteam.setting import Setting
from redteam.suite.inputs import Inputs
from redteam.suite.progress import Progress
from redteam.suite.run import Run


def score_models(inputs: Inputs, progress: Progress) -> CapabilityScores:
    """Scores every model that is given, on the certify and the utility split.

    Raises:
        InputError: a model cannot be opened, or cannot read the items.
    """
    capability = inputs.capability
    groups = group_numbers(capability.certify)
    found = []
    with TemporaryDirectory() as folder:  # nothing is recorded
        run = Run(inputs, RunDirectory(Path(folder), inputs.plan), progress)
        for role, model in inputs.models.items():
            progress.stage(f"scoring the {role}")
            about: dict[str, Any] = {"role": role, "name": model.name, "sha256": model.sha256}
            found.append(ModelScores(**about, **_bounds(run.setting(role, trained=False), capability)))
    return CapabilityScores(
        name=capability.name,
        scorer=capability.scorer.name,
        chance=capability.chance,
        items=len(groups),
        facts=len(set(groups)),
        models=found,
    )


def _bounds(setting: Setting, capability: Capability) -> dict[str, Any]:
    """Returns a model's scores by field of `ModelScores`."""
    start = setting.start
    return {
        "score": _interval(start[keys.CERTIFY], capability.certify),
        "also": {
            keys.further(split): _interval(scores, capability.certify)
            for split, scores in start.items()
            if keys.split_of(split) == keys.CERTIFY and keys.further(split)
        },
        "utility": _interval(start["utility"], capability.utility),
    }


def _interval(scores: Scores, items: Sequence[Item]) -> Interval:
    return mean_bounds(scores[None, :], Resampling.over(group_numbers(items), seed=0), "scored")
