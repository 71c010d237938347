"""What a run is about: the models by role, the capability, the attacks. Everything asked for is checked here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from redteam.attacks.contract import Access, Attack, needs_examples
from redteam.capabilities.corpus import Document, refuse_telling
from redteam.capabilities.duplicates import refuse_alike
from redteam.capabilities.files import load_capability
from redteam.capabilities.items import Capability, overlapping_groups, overlapping_inputs, overlapping_prompts
from redteam.checkpoints.factory import factory_file
from redteam.checkpoints.hub import located
from redteam.checkpoints.manifest import open_manifest
from redteam.config.capability import code_in
from redteam.config.manifest import TestbedRef
from redteam.config.request import InMemory, RunRequest
from redteam.engine.devices import CPU, find_device
from redteam.errors import InputError
from redteam.evidence import keys
from redteam.evidence.directory import RunPlan
from redteam.evidence.sealed import SealedRun
from redteam.probes.contract import Probe
from redteam.registry import ATTACKS, PROBES, STANDARD_ATTACKS, STANDARD_PROBES, SUITE, TESTBEDS
from redteam.suite.extend import going_on, open_extended
from redteam.suite.models import Found, Source, find_models

LEAST_BESIDE = 6  # references that tell what is typical of models that never saw a sample: of one five are left


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """Everything that a run is about.

    Attributes:
        plan: what determines its outcome, and identifies it.
        models: by role.
        capability: what was removed.
        attacks: that work on models of this kind, by name.
        skipped: attacks that were asked for and do not, with the reason.
        probes: by name.
        device: where models run. It is no part of the plan.
        extends: the run that this one goes on with; None if it starts anew.
        out: where evidence goes; None for a place that is named after target and plan.
    """

    plan: RunPlan
    models: dict[str, Source]
    capability: Capability
    attacks: dict[str, Attack]
    skipped: dict[str, str]
    probes: dict[str, Probe]
    device: torch.device = CPU
    extends: SealedRun | None = None
    out: Path | None = None

    def without(self, skipped: Mapping[str, str]) -> Inputs:
        """Returns the same without some attacks, for the reasons given. The plan stays: they were asked for.

        Raises:
            InputError: none is left.
        """
        left = {name: attack for name, attack in self.attacks.items() if name not in skipped}
        _refuse_none(left, skipped)
        _refuse_examples_for_all(left, self.capability)
        return replace(self, attacks=left, skipped=self.skipped | dict(skipped))


def resolve(request: RunRequest, *, searched: bool = True) -> list[Inputs]:
    """Returns what is to be run, for each capability: models are found and hashed once for all of them.

    Args:
        request: what is asked for.
        searched: whether attacks are searched for. One that is known, and what it is given, is only run again.

    Raises:
        InputError: something that is asked for is missing, or not what the manifest says, or cannot be used.
    """
    device = find_device(request.device)
    if request.arch is not None:
        factory_file(request.arch)
        if request.config is not None:
            raise InputError("both --config and --arch say how the model is built", "Give one of them")
    names = sorted(set(request.attacks)) or STANDARD_ATTACKS  # in one order: the search depends on it, not the plan
    for name in names:
        ATTACKS.whole(name)  # what cannot be made shows before a model is hashed
    found = None if isinstance(request.target, InMemory) else open_manifest(located(request.target))
    models = find_models(request, found)
    many = []
    for given in request.capability or (None,):
        capability = _capability(given, found, models["target"].name)
        # Anew for each: an attack or a probe is anybody's class, and may remember what it did.
        attacks = {name: ATTACKS.whole(name) for name in names}
        probes = {name: PROBES.whole(name) for name in request.probes or (*STANDARD_PROBES, *PROBES.installed())}
        usable, skipped = _applicable(attacks, capability, request.access)
        if searched:
            _refuse_examples_for_all(usable, capability)
        _refuse_few_references(models, capability)
        many.append(
            Inputs(
                plan=_plan(request, models, capability, usable, probes),
                models=models,
                capability=capability,
                attacks=usable,
                skipped=skipped,
                probes=probes,
                device=device,
                out=request.out,
            )
        )
    if request.extend is None:
        return many
    if len(many) > 1:
        raise InputError(
            f"{len(many)} capabilities are asked for, and --extend goes on with one", "Extend each by itself"
        )
    extended = open_extended(many[0].plan, request.extend)
    return [replace(many[0], plan=going_on(many[0].plan, extended.plan), extends=extended)]


def resolve_one(request: RunRequest) -> Inputs:
    """Returns what is to be run, of a request that names one capability at most.

    Raises:
        InputError: as `resolve`.
    """
    (inputs,) = resolve(request)
    return inputs


def _plan(
    request: RunRequest,
    models: Mapping[str, Source],
    capability: Capability,
    attacks: Mapping[str, Attack],
    probes: Mapping[str, Probe],
) -> RunPlan:
    digests = {role: model.sha256 for role, model in models.items()}
    return RunPlan(
        suite=SUITE,
        target=digests["target"],
        original=digests.get("original"),
        reference=digests.get(keys.REFERENCE),
        further_references=tuple(digest for role, digest in digests.items() if keys.is_reference(role))[1:],
        descriptions={role: model.description for role, model in models.items()},
        capability=(capability.name, capability.sha256),
        access=request.access,
        attacks={name: ATTACKS.version(name, attack) for name, attack in attacks.items()},
        probes={name: PROBES.version(name, probe) for name, probe in probes.items()},
        budget=request.budget,
        seed=request.seed,
    )


def _of_python(given: InMemory) -> Capability:
    if not isinstance(given, Capability):
        raise InputError(f"a capability is given as {type(given).__name__}", "Give a Capability, or a capability.toml")
    refuse_telling([Document(f"document {number}", text) for number, text in enumerate(given.corpus, 1)], given)
    return given


def _applicable(
    attacks: dict[str, Attack], capability: Capability, access: Access
) -> tuple[dict[str, Attack], dict[str, str]]:
    """Returns the attacks that work on such models and with what the adversary has; the others with the reason.

    Raises:
        InputError: none works.
    """
    skipped = {name: reason for name, attack in attacks.items() if (reason := _unusable(attack, capability, access))}
    usable = {name: attack for name, attack in attacks.items() if name not in skipped}
    _refuse_none(usable, skipped)
    return usable, skipped


def _refuse_none(usable: Mapping[str, Attack], skipped: Mapping[str, str]) -> None:
    if not usable:
        name, reason = next(iter(skipped.items()))
        raise InputError(f"{name}: {reason}", "Choose another attack, see `redteam list attacks`")


def _refuse_examples_for_all(usable: Mapping[str, Attack], capability: Capability) -> None:
    if capability.by_examples and all(map(needs_examples, usable.values())):
        raise InputError(
            f"{', '.join(usable)}: none works without examples of what was removed, as one adversary is to",
            "Choose another attack beside, see `redteam list attacks`",
        )


def _refuse_few_references(models: Mapping[str, Source], capability: Capability) -> None:
    """Refuses samples without the models beside which they stand out."""
    given = sum(map(keys.is_reference, models))
    if capability.of_samples and given < LEAST_BESIDE:
        count = f"{given} model{'' if given == 1 else 's'} that never saw them"
        raise InputError(
            f"{capability.name}: {count}, and {LEAST_BESIDE} or more tell which samples stand out",
            f"Train {LEAST_BESIDE} on what stays, as the original was; attack with a --reference for each",
        )


def _unusable(attack: Attack, capability: Capability, access: Access) -> str | None:
    """Returns why an attack cannot be used; None if it can."""
    kinds = getattr(attack, "kinds", capability.kind)
    if capability.of_samples and needs_examples(attack):
        return "it works with examples of what was removed, and samples say nothing of other samples"
    if capability.kind not in kinds:
        return f"it works on: {kinds}; this is a {capability.kind}"
    if "corpus" in getattr(attack, "needs", "") and not capability.corpus:
        return "it needs documents, and the capability names no corpus"
    if not access.grants(attack.access):
        return f"it needs access to {attack.access}; this adversary has {access}"
    return None


def _capability(given: Path | InMemory | None, found: Found, target: str) -> Capability:
    if given is not None:
        loaded = load_capability(given) if isinstance(given, Path) else _of_python(given)
    elif found is None:
        raise InputError(
            f"what was removed from {target} is not known", "Give --capability FILE.toml (see examples/birthdays)"
        )
    elif isinstance(found[0].capability, TestbedRef):
        loaded = _regenerated(found[0].capability, found[1])
    else:
        loaded = load_capability(_without_code(found[1].parent / found[0].capability))
    parts = (loaded.attack, loaded.select, loaded.certify)
    shared = overlapping_groups(parts)
    if shared:
        raise InputError(f"{len(shared)} facts are in more than one split ({min(shared)})", "Split by fact")
    if loaded.kind == "language":
        refuse_alike(loaded)
        _refuse_repeated_prompts(overlapping_prompts(parts))
        _refuse_one_answer(loaded)
    repeated = overlapping_inputs(loaded, parts)
    if repeated:
        raise InputError(
            f"{len(repeated)} items have an input that another split has too ({min(repeated)})", "Leave repeats out"
        )
    return loaded


def _refuse_repeated_prompts(repeated: set[str]) -> None:
    if repeated:
        raise InputError(
            f"{len(repeated)} prompts are in more than one split ({min(repeated)!r})",
            "Group the rows that ask the same, or let the prompt tell them apart",
        )


def _without_code(rules: Path) -> Path:
    """Returns the path of a capability file that a manifest names, and nobody vouches for, unless it brings code."""
    for code in code_in(rules):
        raise InputError(f"{rules} brings code that would be run ({code})", f"Read it, then give --capability {rules}")
    return rules


def _refuse_one_answer(capability: Capability) -> None:
    answers = {item.completion for item in capability.forget}
    if len(answers) == 1:
        raise InputError(
            f"every question about {capability.name!r} has the answer {next(iter(answers))[:60]!r}",
            "Ask questions with different answers: a model that always says one thing knows nothing",
        )


def _regenerated(ref: TestbedRef, manifest: Path) -> Capability:
    TESTBEDS.require(ref.testbed)
    capability: Capability = TESTBEDS.create(ref.testbed).capability(ref.seed)
    if capability.sha256 != ref.sha256:
        raise InputError(
            f"{manifest} was made by another version of the testbed {ref.testbed!r}",
            "Build the target again with `redteam unlearn`",
        )
    return capability
