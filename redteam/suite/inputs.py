"""What a run is about: the models by role, the capability, the attacks. Everything given is checked here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from redteam.attacks.contract import Access, Attack
from redteam.capabilities.files import load_capability
from redteam.capabilities.items import Capability, overlapping_groups, overlapping_inputs, overlapping_prompts
from redteam.checkpoints.adapter_config import required_base
from redteam.checkpoints.digest import description_digest, joined_digest, weight_files
from redteam.checkpoints.factory import factory_file
from redteam.checkpoints.hub import located, model_name
from redteam.checkpoints.identify import Kind, identify
from redteam.checkpoints.live import Live
from redteam.checkpoints.load import open_target
from redteam.checkpoints.manifest import open_manifest
from redteam.config.capability import code_in
from redteam.config.manifest import Manifest, TestbedRef
from redteam.engine.devices import CPU, find_device, placed
from redteam.errors import InputError
from redteam.evidence.directory import RunPlan
from redteam.probes.contract import Probe
from redteam.registry import ATTACKS, PROBES, STANDARD_ATTACKS, STANDARD_PROBES, SUITE, TESTBEDS
from redteam.target import Target


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """A checkpoint with a role.

    Attributes:
        path: of the checkpoint.
        sha256: of its weights.
        files: SHA-256 of each file of them, by name; of an adapter those of the model that it is put on too.
        config: where its config is, when that is not beside it.
        arch: the function that builds it, `path/to/file.py:function`.
        base: of an adapter, the checkpoint that it is put on.
    """

    path: Path
    sha256: str
    files: Mapping[str, str] = field(default_factory=dict)
    config: Path | None = None
    arch: str | None = None
    base: Path | None = None

    def open(self) -> Target:
        """Loads it, and makes sure that it is still the file that the run is about."""
        return open_target(self.path, config=self.config, arch=self.arch, base=self.base, expect_sha256=self.sha256)

    @property
    def name(self) -> str:
        """The file or directory name, or the model's on the hub."""
        return model_name(self.path)

    @property
    def description(self) -> str:
        """Digest of what it is opened with, its base included."""
        return description_digest(self.path, self.config, self.arch, self.base)


Source = Model | Live  # what a run opens by its role


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """Everything that determines a run.

    Attributes:
        models: by role.
        capability: what was removed.
        attacks: that work on models of this kind, by name.
        skipped: attacks that were asked for and do not, with the reason.
        access: what the adversary is supposed to have; attacks that need more are skipped.
        probes: by name.
        budget: search trials.
        seed: of the run.
        device: where models run; no part of what the run is about.
        extends: the run that this one goes on with; None if it starts anew.
        earlier: budgets of the runs before it.
    """

    models: dict[str, Source]
    capability: Capability
    attacks: dict[str, Attack]
    skipped: dict[str, str]
    access: Access
    probes: dict[str, Probe]
    budget: int
    seed: int
    device: torch.device = CPU
    extends: Path | None = None
    earlier: tuple[int, ...] = ()

    def open(self, role: str, *, trained: bool = True) -> Target:
        """Loads the model of a role, to where models run; one that is not trained needs less room there.

        Raises:
            InputError: it is not the model that the run is about, or there is too little memory.
        """
        target = self.models[role].open()
        return replace(target, module=placed(target.module, self.device, trained=trained))

    def without(self, skipped: Mapping[str, str]) -> Inputs:
        """Returns the same without some attacks, for the reasons given.

        Raises:
            InputError: none is left.
        """
        left = {name: attack for name, attack in self.attacks.items() if name not in skipped}
        _refuse_none(left, skipped)
        return replace(self, attacks=left, skipped=self.skipped | dict(skipped))

    @property
    def plan(self) -> RunPlan:
        """The plan that identifies the run."""
        digests = {role: model.sha256 for role, model in self.models.items()}
        return RunPlan(
            suite=SUITE,
            target=digests["target"],
            original=digests.get("original"),
            reference=digests.get("reference"),
            descriptions={role: model.description for role, model in self.models.items()},
            capability=(self.capability.name, self.capability.sha256),
            access=self.access,
            attacks={name: ATTACKS.version(name, attack) for name, attack in self.attacks.items()},
            probes={name: PROBES.version(name, probe) for name, probe in self.probes.items()},
            budget=self.budget,
            seed=self.seed,
            extends=self.earlier,
        )


def resolve_inputs(
    target: Path | Live,
    *,
    budget: int,
    capability: Path | Capability | None = None,
    original: Path | Live | None = None,
    reference: Path | Live | None = None,
    config: Path | None = None,
    arch: str | None = None,
    base: Path | None = None,
    attacks: Sequence[str] = (),
    access: Access = Access.WEIGHTS,
    probes: Sequence[str] = (),
    seed: int = 0,
    device: str | None = None,
) -> Inputs:
    """Finds models and capability: flags first, then the manifest beside the target.

    Raises:
        InputError: something is missing or not what the manifest says, or the budget is not positive.
    """
    if budget < 1:
        raise InputError(f"the budget is {budget}", "Give --budget at least 1 search trial")
    place = find_device(device)
    if arch is not None:
        factory_file(arch)
        if config is not None:
            raise InputError("both --config and --arch say how the model is built", "Give one of them")
    names = sorted(set(attacks)) or STANDARD_ATTACKS  # in one order: the search depends on it, the plan does not
    adversaries = {name: ATTACKS.whole(name) for name in names}
    target = target if isinstance(target, Live) else located(target)
    found = None if isinstance(target, Live) else open_manifest(target)
    models: dict[str, Source] = {}
    for role, given in (("target", target), ("original", original), ("reference", reference)):
        model = given if isinstance(given, Live) else _beside(role, given, found)
        if model is not None:
            models[role] = model if isinstance(model, Live) else replace(model, config=config, arch=arch)
    if found is not None and found[0].target.sha256 != models["target"].sha256:
        raise InputError(
            f"{target} is not the model that {found[1].name} was written for",
            "Build it again with `redteam unlearn`, or remove that file and give --capability",
        )
    _refuse_shared_roles(models)
    models = _on_base(models, None if base is None else located(base))
    removed = _capability(capability, found, models["target"].name)
    usable, skipped = _applicable(adversaries, removed.kind, access)
    return Inputs(
        models=models,
        capability=removed,
        attacks=usable,
        skipped=skipped,
        access=access,
        probes={name: PROBES.whole(name) for name in probes or (*STANDARD_PROBES, *PROBES.installed())},
        budget=budget,
        seed=seed,
        device=place,
    )


def _applicable(attacks: dict[str, Attack], kind: str, access: Access) -> tuple[dict[str, Attack], dict[str, str]]:
    """Returns the attacks that work on models of a kind and with what the adversary has; the others with the reason.

    Raises:
        InputError: none works.
    """
    skipped = {name: reason for name, attack in attacks.items() if (reason := _unusable(attack, kind, access))}
    usable = {name: attack for name, attack in attacks.items() if name not in skipped}
    _refuse_none(usable, skipped)
    return usable, skipped


def _refuse_none(usable: Mapping[str, Attack], skipped: Mapping[str, str]) -> None:
    if not usable:
        name, reason = next(iter(skipped.items()))
        raise InputError(f"{name}: {reason}", "Choose another attack, see `redteam list attacks`")


def _unusable(attack: Attack, kind: str, access: Access) -> str | None:
    """Returns why an attack cannot be used; None if it can."""
    kinds = getattr(attack, "kinds", kind)
    if kind not in kinds:
        return f"it works on: {kinds}; this is a {kind}"
    if not access.grants(attack.access):
        return f"it needs access to {attack.access}; this adversary has {access}"
    return None


def _beside(role: str, given: Path | None, found: tuple[Manifest, Path] | None) -> Model | None:
    ref: Any = getattr(found[0], role) if found else None
    path = given or (found[1].parent / ref.path if found and ref else None)
    if path is None:
        return None
    path = located(path)
    identify(path)
    files = weight_files(path)
    digest = joined_digest(path, files)
    if given is None and digest != ref.sha256:
        raise InputError(
            f"{path} was changed after the manifest was written", f"Build it again, or give another --{role}"
        )
    return Model(path=path, sha256=digest, files=files)


def _on_base(models: dict[str, Source], base: Path | None) -> dict[str, Source]:
    """Returns the models, those that are adapters with the base that they are put on."""
    files = {role: model for role, model in models.items() if isinstance(model, Model)}
    adapters = {role: model for role, model in files.items() if identify(model.path) is Kind.ADAPTER}
    if base is not None and not adapters:
        raise InputError(f"--base {base} is given, but no model is an adapter", "Leave it out")
    return models | {role: _put_on(model, required_base(model.path, base)) for role, model in adapters.items()}


def _put_on(model: Model, base: Path) -> Model:
    """Returns an adapter with the base that it is put on, whose weights are part of the model."""
    below = {f"base/{name}": digest for name, digest in weight_files(base).items()}
    return replace(model, base=base, files={**model.files, **below})


def _refuse_shared_roles(models: Mapping[str, Source]) -> None:
    """Refuses a reference that is one of the other models: whatever is attacked would look like it never knew."""
    for role in ("target", "original"):
        if "reference" in models and role in models and models[role].sha256 == models["reference"].sha256:
            raise InputError(
                f"the reference is the {role} ({models['reference'].name})",
                "Give a model that never had the capability",
            )


def _capability(given: Path | Capability | None, found: tuple[Manifest, Path] | None, target: str) -> Capability:
    if given is not None:
        loaded = given if isinstance(given, Capability) else load_capability(given)
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
