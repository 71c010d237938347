"""What a run records of itself before anything is run."""

from __future__ import annotations

from typing import Any

from redteam.attacks.contract import needs_examples
from redteam.capabilities.items import SPLITS, blind_score, group_numbers
from redteam.capabilities.leaks import answered_by_nearest
from redteam.evidence import keys
from redteam.evidence.directory import RunDirectory, seeds_beside
from redteam.evidence.events import CapabilityEvent, GivenModel, ModelsEvent
from redteam.registry import SUITE
from redteam.search.selection import CONFIRMATION, GOING_ON, LONGEST, SEEDS
from redteam.suite.counting import counts_for, tuned_with
from redteam.suite.decoys import decoy_kind
from redteam.suite.inputs import Inputs


def record_inputs(run: RunDirectory, inputs: Inputs) -> None:
    """Records what a run is about, and which models were given, unless that was recorded before."""
    _record_capability(run, inputs)
    _record_models(run, inputs)


def _record_models(run: RunDirectory, inputs: Inputs) -> None:
    if keys.MODELS in run.events:
        return
    given = {
        role: GivenModel(name=model.name, sha256=model.sha256, files=dict(model.files))
        for role, model in inputs.models.items()
    }
    run.record(ModelsEvent(given=given))


def _record_capability(run: RunDirectory, inputs: Inputs) -> None:
    if keys.CAPABILITY in run.events:
        return
    capability, beside = inputs.capability, seeds_beside(run.path, inputs.plan)
    event = CapabilityEvent(
        name=capability.name,
        chance=capability.chance,
        blind=blind_score(capability.scorer, capability.certify),
        scorer=capability.scorer.name,
        also={scorer.name: capability.chance_by(scorer) for scorer in capability.scorers[1:]},
        wordings=capability.attack[0].wordings,
        groups=group_numbers(capability.certify),
        ids=tuple(item.id for item in capability.certify),
        sizes={name: len(items) for name in SPLITS if (items := getattr(capability, name))},
        select_groups=len({item.group for item in capability.select}),
        utility_groups=group_numbers(capability.utility),
        utility_chance=blind_score(capability.utility_scorer, capability.utility),
        seeds=SEEDS,
        budget=inputs.plan.budget,
        looks=1 + len(inputs.plan.extends) + len(beside),
        other_seeds=beside,
        longest=LONGEST if inputs.plan.budget >= GOING_ON else 0,
        skipped=dict(inputs.skipped),
        access=inputs.plan.access,
        attacks=tuple(inputs.attacks),
        attack_access={name: attack.access for name, attack in inputs.attacks.items()},
        decoy=decoy_kind(inputs.attacks, capability),
        documents=tuple(name for name, attack in inputs.attacks.items() if "corpus" in getattr(attack, "needs", "")),
        suite=SUITE,
        confirmation=CONFIRMATION,
        **_by_examples(inputs),
    )
    nearest = answered_by_nearest(capability)
    run.record(event, {keys.NEAREST: nearest} if nearest else {})


def _by_examples(inputs: Inputs) -> dict[str, Any]:
    """Returns what is recorded where adversaries have a few examples of what was removed, or none."""
    if not inputs.capability.by_examples:
        return {}
    counts = counts_for(len(inputs.capability.attack))
    needing = tuple(name for name, attack in inputs.attacks.items() if needs_examples(attack))
    return {"examples": needing, "shown": counts, "tuned": tuned_with(counts)}
