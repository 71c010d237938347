"""One run: what it is about, its evidence, and its models, which stages ask it for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import nn

from redteam.capabilities.items import Capability
from redteam.capabilities.misfit import refuse_other_classes
from redteam.capabilities.scorers.failures import NotFinite
from redteam.capabilities.scorers.membership import read_odds
from redteam.capabilities.texts import as_read
from redteam.capabilities.typical import typical_of
from redteam.checkpoints.live import tensors_digest
from redteam.engine.devices import device_of, has_room, placed, room_for
from redteam.errors import InputError
from redteam.evidence import keys
from redteam.evidence.directory import RunDirectory
from redteam.judging.checks.measures import UNSTEADY
from redteam.setting import Setting, open_setting
from redteam.suite.inputs import Inputs
from redteam.suite.memo import Key, Memo
from redteam.suite.progress import Progress
from redteam.suite.repeat import share_unsteady
from redteam.suite.same import said_digest
from redteam.target import Target

RUNS = Path("results/runs")


def run_path(inputs: Inputs) -> Path:
    """Returns where the run goes: a function of the plan, so that the same command finds it again."""
    name = inputs.models["target"].name.replace("/", "-").removesuffix(".safetensors").removesuffix(".pt")
    return inputs.out or RUNS / f"{name}-{inputs.plan.fingerprint[:8]}"


class Run:
    """A run while it goes on.

    Each model is opened and scored once, and shared by all that read or attack it: they put it back. It is let go when
    another needs its room, and opened again when it is asked for again.

    Attributes:
        inputs: what it is about.
        evidence: where evidence goes.
        progress: hears how far it is.
        memo: what other runs of this process found already.
    """

    def __init__(self, inputs: Inputs, evidence: RunDirectory, progress: Progress, memo: Memo | None = None) -> None:
        """Opens nothing yet."""
        self.inputs, self.evidence, self.progress, self.memo = inputs, evidence, progress, memo or Memo()
        self.announced = 0  # trials in all, as far as they are known
        self._open: dict[str, Setting] = {}
        self._lent: set[str] = set()  # roles whose models were handed out for reading, until `restore`
        self._used: set[str] = set()  # roles whose models were lent or attacked since they were last known to be whole
        self._tensors: dict[str, str] = {}  # digest of the float32 weights of each role that was ever opened
        self._odds: dict[str, NDArray[np.float64]] = {}  # what each reference says of samples

    def announce(self, trials: int) -> None:
        """Says how many trials the run takes in all."""
        self.announced = trials
        self.progress.plan(trials)

    def setting(self, role: str, *, trained: bool = True) -> Setting:
        """Returns the model of a role at its released weights, scored on the capability.

        One that is open already is asked again: an attack can change what no snapshot holds, a table of a module's own
        say. A model that no longer answers as it did is opened anew.

        Args:
            role: of the model.
            trained: whether it is about to be attacked. It needs more room then, and others are let go for it.

        Raises:
            InputError: it is not the model that the run is about; the reference has the weights of another model; the
                model cannot read the items; or there is too little memory.
        """
        if role in self._open and not (self._is_whole(role) and (not trained or self._has_room(role))):
            self._let_go(role)
        if role not in self._open:
            capability = self._about(role)
            self._open[role] = open_setting(self._load(role, trained=trained), capability)
        self._used |= {role} if trained else set()
        return self._open[role]

    def _about(self, role: str) -> Capability:
        """Returns the capability; of samples with what the references, but for this one, say of them."""
        capability = self.inputs.capability
        if not capability.of_samples:
            return capability
        others = [one for one in self.inputs.models if keys.is_reference(one) and one != role]
        for one in others:
            if one not in self._odds:
                target = self._load(one, trained=False)
                refuse_other_classes(target, as_read(capability, target))
                try:
                    self._odds[one] = read_odds(target, capability)
                except NotFinite as error:
                    raise InputError(f"{target.name}: {error}", "Give a model that works") from error
        return replace(capability, typical=typical_of([self._odds[one] for one in others]))

    def asked_about(self, capability: Capability) -> Setting:
        """Returns the target, scored on another capability.

        Raises:
            InputError: as `setting`.
        """
        own = self.setting("target")
        return open_setting(own.target, capability, own.released)

    def lend(self, role: str) -> nn.Module:
        """Returns the model of a role for reading. What is changed all the same, `restore` puts back."""
        opened = self._open.get(role) or self.setting(role, trained=False)
        self._lent.add(role)
        self._used.add(role)
        return opened.target.module

    def restore(self) -> None:
        """Puts the models that were lent back to their released weights.

        Raises:
            StructureChanged: one of them cannot be put back.
        """
        for role in self._lent & self._open.keys():
            self._open[role].released.restore(self._open[role].target.module)
        self._lent.clear()

    def make_room(self, module: nn.Module) -> None:
        """Lets go of models until a module, in memory already, can be trained beside those that are left."""
        self._make_room(_more_to_train(module), keep="")

    def identity(
        self, setting: Setting, model: str, *, made: tuple[str, ...] = (), capability: Capability | None = None
    ) -> Key:
        """Returns all that scores of a model depend on, for `memo`.

        Args:
            setting: the model as it is scored.
            model: role of the model that it is, or that it was made of.
            made: how it was made of that one; nothing if it is that one.
            capability: what it is scored on; by default what the run is about.
        """
        plan = self.inputs.plan
        about = plan.capability[1] if capability is None else capability.sha256
        how = (*made, str(plan.seed)) if made else ()
        own = (self.inputs.models[model].sha256, plan.descriptions[model], about, said_digest(setting))
        beside = [one.sha256 for role, one in self.inputs.models.items() if keys.is_reference(role)]
        return (*how, "model", *own, *(beside if self.inputs.capability.of_samples else ()))

    def _load(self, role: str, *, trained: bool) -> Target:
        target = self.inputs.models[role].open()
        self._refuse_same(role, target.module)
        device = self.inputs.device
        here = device.type == "cpu"
        needed = _more_to_train(target.module) if here and trained else room_for(target.module, trained=trained)
        self._make_room(needed, keep=role)
        return replace(target, module=placed(target.module, device, trained=trained))

    def _is_whole(self, role: str) -> bool:
        """Returns whether a model that is open answers as it did when it was opened."""
        if role in self._used and share_unsteady(self._open[role]) > UNSTEADY:
            return False
        self._used.discard(role)
        return True

    def _has_room(self, role: str) -> bool:
        """Makes room to train a model that is open. Returns whether there is enough where it is."""
        module = self._open[role].target.module
        needed, place = _more_to_train(module), device_of(module)
        self._make_room(needed, keep=role)
        return place.type == "cpu" or has_room(place, needed)

    def _make_room(self, needed: float, keep: str) -> None:
        for role in [role for role in self._open if role != keep]:
            if has_room(self.inputs.device, needed):
                return
            self._let_go(role)

    def _let_go(self, role: str) -> None:
        del self._open[role]
        self._used.discard(role)

    def _refuse_same(self, role: str, module: nn.Module) -> None:
        """Refuses a reference whose weights are those of another model: saved in another form, files do not show it."""
        if role in self._tensors:
            return
        digest = tensors_digest(module)
        same = [other for other, found in self._tensors.items() if found == digest]
        if same and any(keys.is_reference(one) for one in (role, *same)):
            other = same[0] if keys.is_reference(role) else role
            raise InputError(
                f"the reference has the weights of the {other}", "Give a model that never had the capability"
            )
        self._tensors[role] = digest


def _more_to_train(module: nn.Module) -> float:
    """Returns the bytes that training needs beside a module that is there."""
    return room_for(module, trained=True) - room_for(module, trained=False)
