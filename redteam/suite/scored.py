"""What models score as they are: no attack, and no verdict."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from redteam.capabilities.items import group_numbers
from redteam.evidence import keys
from redteam.evidence.directory import RunDirectory
from redteam.evidence.scored import CapabilityScores, ModelScores
from redteam.judging.statistics import Resampling, mean_bounds
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
    certify, utility = (Resampling.over(numbers, seed=0) for numbers in (groups, group_numbers(capability.utility)))
    found = []
    with TemporaryDirectory() as folder, RunDirectory(Path(folder), inputs.plan) as evidence:  # nothing is recorded
        run = Run(inputs, evidence, progress)
        for role, model in inputs.models.items():
            progress.stage(f"scoring the {role}")
            start = run.setting(role, trained=False).start
            by = {keys.further(name): scores for name, scores in start.items() if keys.split_of(name) == keys.CERTIFY}
            bounds = {name: mean_bounds(scores[None, :], certify, role) for name, scores in by.items()}
            found.append(
                ModelScores(
                    role=role,
                    name=model.name,
                    sha256=model.sha256,
                    score=bounds.pop(""),
                    also=bounds,
                    utility=mean_bounds(start["utility"][None, :], utility, role),
                )
            )
    return CapabilityScores(
        name=capability.name,
        scorer=capability.scorer.name,
        chance=capability.chance,
        items=len(groups),
        facts=len(set(groups)),
        models=found,
    )
