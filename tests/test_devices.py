"""Models run where there is room for them, and what is found does not depend on where that is."""

from __future__ import annotations

import gc
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
from redteam.engine.batches import TokenSet
from redteam.engine.devices import WORKING, device_of, division, find_device, full_precision, placed, room_for
from redteam.engine.loop import train
from redteam.engine.optimizers import Tuning
from redteam.engine.seeding import seeded
from redteam.errors import InputError
from redteam.registry import ATTACKS, PROBES

HERE, ROUNDING = Path(__file__).parent, 1e-5  # kernels sum float32 in an order of their own
# What only a language model can be given.
ASKED = {"suffix", "word-search", "soft-prompt", "in-context", "rephrase", "reorder", "corpus"}
OF_CLASSES = {"universal-input", "head", "imprint"}  # what only a classifier can be given
OF_TEXT = {"logit-lens", "tuned-lens", "decoder"}  # read text alone
NOT_OF = {
    "classifier": ASKED | OF_TEXT | {"masked", "worded"},  # nothing hides one class of this tiny one
    "text": ASKED | OF_TEXT | {"universal-input", "worded"},
    "language": OF_CLASSES,
    "spread": OF_CLASSES,
}


needs_accelerator = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator")


def found_elsewhere(kind: str, folder: Path, device: str) -> dict[str, Any]:
    """Runs everything here and there in a process of its own; what is to be done there has been done."""
    command = [sys.executable, str(HERE / "device_run.py"), kind, str(folder), device]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([".", os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    names = {name.split()[-1] for name in found["done"]}
    assert names == {*ATTACKS.table, *PROBES.table, "masked", "worded"} - NOT_OF[kind]
    assert found["devices"] == ["cpu", f"{device}:0"] if kind == "spread" else [f"{device}:0"]
    assert found["inputs"] == f"{device}:0"
    return found


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["classifier", "text", "language", "spread"])
def test_every_attack_and_probe_finds_elsewhere_what_it_finds_here(kind: str, tmp_path: Path) -> None:
    """Tensors of two devices never meet, and no number changes; of "spread" half of the layers are elsewhere."""
    found = found_elsewhere(kind, tmp_path, "pretend")
    assert max(found["gaps"].values()) < ROUNDING, found["gaps"]


@needs_accelerator
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["classifier", "text", "language"])
def test_every_attack_and_probe_runs_on_an_accelerator(kind: str, tmp_path: Path) -> None:
    """What an attack makes of differences in the last digits is its own; what the released model says is the same."""
    found = found_elsewhere(kind, tmp_path, "cuda")
    assert found["gaps"]["start"] < ROUNDING
    print({name: gap for name, gap in found["gaps"].items() if gap >= ROUNDING})


@needs_accelerator
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


@needs_accelerator
def test_a_batch_that_does_not_fit_into_an_accelerator_gives_the_same_step() -> None:
    """The logits of the whole batch alone would be all that there is. Parts of any size have logits of one length."""
    drawn = torch.randint(0, 28, (64, 128), generator=seeded(0)).tolist()
    data = TokenSet.from_sequences(drawn, [1, 100] * 32, pad=28)
    sizes: list[int] = []
    losses = []
    for limit in (None, 2**30):
        module = None  # what the one before left behind would lie about in the memory of this one
        gc.collect()
        torch.cuda.empty_cache()
        module = tiny_llama(vocab_size=32_000, hidden_size=64, max_position_embeddings=128).to("cuda")
        module.register_forward_pre_hook(lambda _m, _a, given: sizes.append(len(given["input_ids"])), with_kwargs=True)
        total = torch.cuda.mem_get_info()[1]
        torch.cuda.set_per_process_memory_fraction(1.0 if limit is None else limit / total)
        try:
            tuning = Tuning(learning_rate=1e-3, steps=3)
            losses.append(train(module, iter([data.batch(slice(None))] * 3), tuning).losses)
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
    assert sizes[:4] == [64, 64, 64, 64]  # the first of the second model is refused
    assert 1 <= sizes[-1] < 64
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


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


def room_of(module: nn.Module, share: float = 1.0, *, trained: bool = True) -> float:
    """Bytes that a share of a module's layers needs, beside what every device needs."""
    return (room_for(module, trained=trained) - WORKING) * share + WORKING


def test_a_model_that_fits_nowhere_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    module = tiny_llama()
    for free in ({0: room_of(module, 0.99)}, {0: room_of(module, 0.5) / 2, 1: room_of(module, 0.3) / 2}):
        with pytest.raises(InputError, match=r"the model needs 1.0 GB; cuda has 1.0 GB free.*Give --device cpu"):
            placed(module, torch.device("cuda"), free=free)
    with pytest.raises(InputError, match="to be read in float32 the model needs"):
        placed(module, torch.device("cuda"), trained=False, free={0: size_of(module)})
    assert device_of(module) == torch.device("cpu")


def test_layers_are_divided_whole_and_none_gets_more_than_it_has_room_for() -> None:
    module = tiny_llama(num_hidden_layers=6)
    free = {0: room_of(module, 0.5), 1: room_of(module, 0.7)}
    places = division(module, free)
    of = {
        name: next(where for place, where in places.items() if name == place or name.startswith(f"{place}."))
        for name, _ in module.named_parameters()
    }
    held = dict.fromkeys(free, 0)
    for name, parameter in module.named_parameters():
        held[of[name]] += parameter.numel() * parameter.element_size()
    assert all(0 < room_of(module, held[device] / size_of(module)) <= free[device] for device in free)
    assert all(held.values())
    for layer in range(6):
        assert len({where for name, where in of.items() if name.startswith(f"model.layers.{layer}.")}) == 1
    with pytest.raises(InputError, match="cannot be divided among 2 devices"):
        division(module, {0: room_of(module, 0.5), 1: room_of(module, 0.3)})


def test_a_model_that_one_device_has_no_room_for_is_spread(monkeypatch: pytest.MonkeyPatch) -> None:
    module, seen = tiny_llama(num_hidden_layers=8), dict[str, torch.device]()
    monkeypatch.setattr(devices, "spread", lambda model, places: seen.update(places) or model)
    room = room_of(module, 0.7)
    assert placed(module, torch.device("cuda"), free={0: room, 1: room}) is module
    assert set(seen.values()) == {torch.device("cuda", 0), torch.device("cuda", 1)}
    seen.clear()
    monkeypatch.setattr(module, "to", lambda place: seen.update(all=place) or module)
    placed(module, torch.device("cuda"), trained=False, free={0: WORKING, 1: room})  # to be run it fits into one
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
