"""Attacks on rescaled copies: the same function, and with relative optimizers the same recovery curve."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
import torch
from peft import LoraConfig
from peft.tuners.lora import LoraModel
from rescaled import rescaled_chain, rescaled_llama
from test_conformance import ROWS
from tiny_classifiers import tiny_classifier_target, tiny_points
from tiny_models import tiny_capability, tiny_llama, tiny_target
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from redteam.attacks.lora import ADAPTER, scale_adapters
from redteam.registry import ATTACKS
from redteam.setting import open_setting
from redteam.trial import TrialResult, TrialSpec, run_trial

TRAINING = ("retrain", "mixture", "partial", "curriculum", "benign")
CASES = [(name, optimizer) for name in TRAINING for optimizer in ("relative", "relative-adam")] + [
    ("lora", "relative-adam")
]
RATES = {"relative": 1e-2, "relative-adam": 1e-2, "adamw": 1e-2}


def attacked(name: str, optimizer: str, *, kind: str, span: float | None) -> TrialResult:
    """A short trial on a tiny model or, with a span, on a rescaled copy of it."""
    language = kind == "language"
    target = tiny_target() if language else tiny_classifier_target()
    module: Any = tiny_llama() if language else copy.deepcopy(target.module)
    if span is not None and language:
        module = rescaled_llama(module, span)
    elif span is not None:
        module.layers = rescaled_chain(module.layers, span)
    setting = open_setting(dataclasses.replace(target, module=module), tiny_capability() if language else tiny_points())
    tuning = {"optimizer": optimizer, f"learning_rate.{optimizer}": RATES[optimizer], "steps": 8}
    part = {"part": "late layers"} if name == "partial" else {}
    params = {**ROWS[name].params, **tuning, **part}
    result = run_trial(setting, ATTACKS.create(name), TrialSpec(key="0", attack=name, params=params, seed=0))
    assert result.error is None, result.error
    return result


@pytest.mark.parametrize(("name", "optimizer"), CASES)
@pytest.mark.parametrize("kind", ["language", "classifier"])
def test_what_is_recovered_step_by_step_does_not_depend_on_how_a_model_is_scaled(
    kind: str, name: str, optimizer: str
) -> None:
    plain, copied = (attacked(name, optimizer, kind=kind, span=span) for span in (None, 3.0))
    assert copied.losses == pytest.approx(plain.losses, rel=1e-3)
    assert plain.losses[-1] != pytest.approx(plain.losses[0], rel=1e-3)
    for here, there in zip(plain.points, copied.points, strict=True):
        for split in here.scores:
            assert there.scores[split].tolist() == pytest.approx(here.scores[split].tolist(), abs=1e-3)


@pytest.mark.parametrize("name", [*TRAINING, "lora"])
def test_with_adamw_it_does(name: str) -> None:
    plain, copied = (attacked(name, "adamw", kind="language", span=span) for span in (None, 3.0))
    assert copied.losses != pytest.approx(plain.losses, rel=0.05)


LAYERS = {
    "linear": lambda: nn.Linear(6, 8),
    "transposed": lambda: Conv1D(8, 6),
    "convolution": lambda: nn.Conv2d(6, 8, 3),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_an_adapter_is_scaled_like_the_rows_and_columns_of_its_weight(kind: str) -> None:
    draw = torch.Generator().manual_seed(1)
    rows, columns = (torch.exp2(torch.randint(-9, 10, (n,), generator=draw).float()) for n in (8, 6))
    torch.manual_seed(0)
    plain = LAYERS[kind]()
    scaled = copy.deepcopy(plain)
    wanted = outer(kind, plain.weight.detach(), rows, columns)
    with torch.no_grad():
        scaled.weight.copy_(wanted)
    here, there = change(plain), change(scaled)
    assert here.any()
    assert torch.allclose(there, outer(kind, here, rows, columns), rtol=1e-3)


def outer(kind: str, weight: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """A weight with its outputs multiplied by `rows` and its inputs by `columns`."""
    if kind == "transposed":
        return weight * rows * columns[:, None]
    ones = [1] * (weight.ndim - 2)
    return weight * rows.reshape(-1, 1, *ones) * columns.reshape(1, -1, *ones)


def change(layer: nn.Module) -> Tensor:
    """What an adapter adds whose second factor is all ones in its units."""
    module = nn.Sequential(copy.deepcopy(layer))
    config = LoraConfig(r=2, target_modules=["0"], fan_in_fan_out=isinstance(layer, Conv1D))
    torch.manual_seed(0)
    LoraModel(module, {ADAPTER: config}, ADAPTER)
    adapted: Any = module[0]
    scale_adapters(module)
    with torch.no_grad():
        adapted.lora_B[ADAPTER].parametrizations.weight.original.fill_(1.0)
        return adapted.get_delta_weight(ADAPTER)
