"""What every attack, probe and decoy does on the processor and on another device; in a process of its own.

    python tests/device_run.py KIND FOLDER [DEVICE]

KIND: language, spread (the same over two devices), classifier, text. DEVICE: pretend, or an accelerator's name. Prints
as JSON by how much findings differ.
"""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from math import inf
from pathlib import Path
from typing import Any

import pretend
import torch
from tiny_classifiers import tiny_classifier_target, tiny_points
from tiny_models import tiny_capability, tiny_target, weights_of
from tiny_texts import save_text_model, tiny_text_model, write_texts
from torch.nn.attention import SDPBackend, sdpa_kernel

from redteam.attacks.contract import unfitness
from redteam.capabilities.files import load_capability
from redteam.capabilities.items import Capability
from redteam.checkpoints.load import open_target
from redteam.engine.devices import CPU, device_of, find_device, full_precision, placed, spread
from redteam.probes.contract import ProbeContext, unreadable
from redteam.probes.states import layers_of
from redteam.registry import ATTACKS, PROBES
from redteam.setting import Setting, open_setting
from redteam.suite.decoys import MASKED, WORDED, make_decoy
from redteam.target import Target
from redteam.trial import TrialSpec, run_trial
from redteam.unlearning.masked import Unmaskable

HALVES = {"model.embed_tokens": 1, "model.layers.0": 1, "model.layers.1": 0, "model.norm": 0, "lm_head": 0}
STEPS, RECIPES = 3, 2


def made(kind: str, seed: int, folder: Path) -> Target:
    """A tiny model in the processor's memory."""
    if kind in ("language", "spread"):
        return tiny_target(seed)
    if kind == "classifier":
        return tiny_classifier_target(seed)
    return open_target(save_text_model(folder / f"model-{seed}", tiny_text_model("bert", seed)))


def asked(kind: str, folder: Path) -> Capability:
    if kind in ("language", "spread"):
        return tiny_capability()
    return tiny_points() if kind == "classifier" else load_capability(write_texts(folder))


def opener(kind: str, folder: Path, device: torch.device) -> Callable[[int], Target]:
    """Returns what makes the model of a seed and puts it on a device, of "spread" half of it."""

    @cache
    def opened(seed: int) -> Target:
        target = made(kind, seed, folder)
        module = copy.deepcopy(target.module)
        if kind != "spread" or device == CPU:
            return replace(target, module=placed(module, device))
        # The second device is the processor's memory: torch gives a device that is written in Python no number but 0.
        return replace(target, module=spread(module, {name: (CPU, device)[here] for name, here in HALVES.items()}))

    return opened


def everything(opened: Callable[[int], Target], capability: Capability) -> dict[str, Any]:
    """Returns what is found with models of three seeds, by name."""
    setting = open_setting(opened(0), capability)
    found: dict[str, Any] = {"start": {split: scores.tolist() for split, scores in setting.start.items()}}
    found |= {f"attack {name}": trial(setting, name) for name in ATTACKS.table}
    found |= {f"probe {name}": reading(opened, setting, name) for name in PROBES.table}
    found |= {f"decoy {kind}": decoy(opened(1), capability, kind) for kind in (MASKED, WORDED)}
    return found


def trial(setting: Setting, name: str) -> Any:
    attack, info = ATTACKS.create(name), setting.target.info
    if info.kind not in attack.kinds:
        return None
    if (why := unfitness(attack, setting.target.module)) is not None:
        return why
    recipes = [dict(params) for params in attack.recipes(info, len(setting.answers))]
    ends = []
    for number, params in enumerate(recipes[:RECIPES]):
        params |= {"steps": min(STEPS, params["steps"])} if "steps" in params else {}
        result = run_trial(setting, attack, TrialSpec(key=name, attack=name, params=params, seed=number, certify=True))
        assert result.state == "complete", (name, params, result.error)
        scores = {split: scores.tolist() for split, scores in result.points[-1].scores.items()}
        ends.append([params, scores, result.losses, result.share_moved, result.outputs_moved])
    return ends


def reading(opened: Callable[[int], Target], setting: Setting, name: str) -> Any:
    target, capability = setting.target, setting.capability
    view = ProbeContext(
        module=target.module,
        tokenizer=target.tokenizer,
        capability=capability,
        layers=layers_of(target.module, target.tokenizer, capability),
        original=lambda: opened(1).module,
        reference=lambda: opened(2).module,
        seed=0,
    )
    probe = PROBES.create(name)
    if (why := unreadable(probe, view)) is not None:
        return why
    found = probe.read(view)
    setting.released.restore(target.module)
    return [found.layer, found.correct, found.control, dict(found.by_layer), dict(found.notes)]


def decoy(original: Target, capability: Capability, kind: str) -> Any:
    """Returns what a decoy says; `worded` leaves a hook behind, so it is made last."""
    try:
        made = make_decoy(kind, original, capability, 0)
    except Unmaskable as error:
        return str(error)
    said = {split: scores.tolist() for split, scores in open_setting(made, capability).start.items()}
    return [said, {name: tensor.tolist() for name, tensor in weights_of(made.module).items()}]


def gap(one: Any, other: Any) -> float:
    """Returns the largest difference between two findings; infinity where they are not numbers and not the same."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return max((gap(one[key], other[key]) for key in one), default=0.0)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple) and len(one) == len(other):
        return max((gap(a, b) for a, b in zip(one, other, strict=True)), default=0.0)
    if one == other:
        return 0.0
    return abs(one - other) if isinstance(one, float) and isinstance(other, float) else inf


def main(kind: str, folder: Path, device: str = pretend.NAME) -> None:
    if device == pretend.NAME:
        pretend.set_up()
    capability, elsewhere = asked(kind, folder), opener(kind, folder, find_device(device))
    with full_precision(), sdpa_kernel(SDPBackend.MATH):  # the processor has a kernel of its own: it rounds otherwise
        here, there = everything(opener(kind, folder, CPU), capability), everything(elsewhere, capability)
    module = elsewhere(0).module
    print(
        json.dumps(
            {
                "gaps": {name: gap(here[name], there[name]) for name in here},
                "done": sorted(name for name, found in there.items() if isinstance(found, list)),
                "reasons": {name: found for name, found in there.items() if isinstance(found, str)},
                "devices": sorted({str(parameter.device) for parameter in module.parameters()}),
                "inputs": str(device_of(module)),
            }
        )
    )


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
