"""Models run where there is room for them, and what is found does not depend on where that is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from run_redteam import redteam
from safetensors.torch import save_file
from tiny_classifiers import tiny_classifier_target, tiny_mlp, tiny_points
from tiny_models import tiny_llama, weights_of
from torch import nn

import redteam as package
from redteam.engine import devices
from redteam.engine.devices import READING, TRAINING, device_of, division, find_device, full_precision, placed
from redteam.errors import InputError
from redteam.registry import ATTACKS, PROBES

HERE = Path(__file__).parent
ASKED = {"suffix", "word-search", "soft-prompt", "in-context", "rephrase"}  # what only a language model can be given
LENSES = {"logit-lens", "tuned-lens"}
NOT_OF = {
    "classifier": ASKED | LENSES | {"masked", "worded"},  # nothing hides one class of this tiny one
    "text": ASKED | LENSES | {"universal-input", "worded"},
    "language": {"universal-input"},
    "spread": {"universal-input"},
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["classifier", "text", "language", "spread"])
def test_every_attack_and_probe_finds_elsewhere_what_it_finds_here(kind: str, tmp_path: Path) -> None:
    """Tensors of two devices never meet, and no number changes; of "spread" half of the layers are elsewhere."""
    command = [sys.executable, str(HERE / "pretend_run.py"), kind, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": "."})
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["differing"] == []
    names = {name.split()[-1] for name in found["done"]}
    assert names == {*ATTACKS.table, *PROBES.table, "masked", "worded"} - NOT_OF[kind]
    assert found["devices"] == ["cpu", "pretend:0"] if kind == "spread" else ["pretend:0"]
    assert found["inputs"] == "pretend:0"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator")
def test_a_run_on_an_accelerator(tmp_path: Path) -> None:
    models: dict[str, Any] = {
        role: tiny_classifier_target(seed).module for seed, role in enumerate(("target", "original", "reference"))
    }
    target = models.pop("target")
    found = [
        package.attack(target, capability=tiny_points(), device=place, budget=30, out=tmp_path / place, **models)
        for place in ("cpu", "cuda")
    ]
    here, there = (results.capabilities[0] for results in found)
    assert here.verdict == there.verdict
    assert here.budget.failed == there.budget.failed == 0


def test_without_a_name_it_is_the_accelerator_if_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert find_device(None) == torch.device("cpu")
    with pytest.raises(InputError, match=r"no device 'cuda'.*Give --device cpu"):
        find_device("cuda")
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    assert find_device(None) == find_device("cuda") == torch.device("cuda")
    assert find_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(InputError, match="Give --device cpu or cuda or cuda:0 or cuda:1"):
        find_device("cuda:2")


def test_a_device_that_is_not_there_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.zeros(1)}, path)
    done = redteam("attack", path, "--device", "tpu", "--budget", "1")
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error: this machine has no device 'tpu'. Give --device cpu")


def size_of(module: nn.Module) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in module.parameters())


def test_a_model_that_fits_nowhere_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    module = tiny_llama()
    needed = TRAINING * size_of(module)
    for free in ({0: needed * 0.99}, {0: needed / 2, 1: needed / 3}):
        with pytest.raises(InputError, match=r"the model needs 0.0 GB; cuda has 0.0 GB free.*Give --device cpu"):
            placed(module, torch.device("cuda"), free=free)
    with pytest.raises(InputError, match="to be read in float32 the model needs"):
        placed(module, torch.device("cuda"), times=READING, free={0: size_of(module)})
    assert device_of(module) == torch.device("cpu")


def test_layers_are_divided_whole_and_none_gets_more_than_it_has_room_for() -> None:
    module = tiny_llama(num_hidden_layers=6)
    size = size_of(module)
    free = {0: TRAINING * size * 0.5, 1: TRAINING * size * 0.7}
    places = division(module, free)
    of = {
        name: next(where for place, where in places.items() if name == place or name.startswith(f"{place}."))
        for name, _ in module.named_parameters()
    }
    held = dict.fromkeys(free, 0)
    for name, parameter in module.named_parameters():
        held[of[name]] += parameter.numel() * parameter.element_size()
    assert all(0 < held[device] <= free[device] / TRAINING for device in free)
    for layer in range(6):
        assert len({where for name, where in of.items() if name.startswith(f"model.layers.{layer}.")}) == 1
    with pytest.raises(InputError, match="cannot be divided among 2 devices"):
        division(module, {0: TRAINING * size * 0.5, 1: TRAINING * size * 0.3})


def test_a_model_that_one_device_has_no_room_for_is_spread(monkeypatch: pytest.MonkeyPatch) -> None:
    module, seen = tiny_llama(num_hidden_layers=8), dict[str, torch.device]()
    monkeypatch.setattr(devices, "spread", lambda model, places: seen.update(places) or model)
    room = TRAINING * size_of(module) * 0.7
    assert placed(module, torch.device("cuda"), free={0: room, 1: room}) is module
    assert set(seen.values()) == {torch.device("cuda", 0), torch.device("cuda", 1)}
    seen.clear()
    monkeypatch.setattr(module, "to", lambda place: seen.update(all=place) or module)
    placed(module, torch.device("cuda"), times=READING, free={0: room / 10, 1: room})  # to be run it fits into one
    assert seen == {"all": torch.device("cuda", 1)}


def test_float32_is_float32_while_a_run_lasts_and_as_it_was_afterwards() -> None:
    torch.set_float32_matmul_precision("medium")
    try:
        with full_precision():
            assert torch.get_float32_matmul_precision() == "highest"
            assert not torch.backends.cudnn.allow_tf32
        assert torch.get_float32_matmul_precision() == "medium"
        assert torch.backends.cudnn.allow_tf32
    finally:
        torch.set_float32_matmul_precision("highest")


def test_on_the_processor_nothing_is_moved() -> None:
    module = tiny_mlp()
    before = weights_of(module)
    assert placed(module, torch.device("cpu")) is module
    assert all(torch.equal(before[name], value) for name, value in weights_of(module).items())
