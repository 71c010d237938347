"""Image classifiers of transformers, written by transformers itself."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import (
    ConvNextConfig,
    ConvNextForImageClassification,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

from redteam.attacks.mixture import Mixture
from redteam.attacks.tuning import recipe
from redteam.capabilities.files import load_capability
from redteam.checkpoints.digest import description_digest
from redteam.checkpoints.inspect import inspect_checkpoint
from redteam.checkpoints.load import open_target
from redteam.setting import open_setting
from redteam.trial import TrialSpec, run_trial

SHAPE = (1, 8, 8)


def vit(**changes: Any) -> nn.Module:
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    return ViTForImageClassification(
        ViTConfig(**{**sizes, "image_size": 8, "patch_size": 4, "num_channels": 1, "num_labels": 5, **changes})
    )


def resnet() -> nn.Module:
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 2], "layer_type": "basic"}
    return ResNetForImageClassification(ResNetConfig(num_channels=1, num_labels=5, **sizes))


def convnext() -> nn.Module:
    sizes = {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2, "patch_size": 2}
    return ConvNextForImageClassification(ConvNextConfig(num_channels=1, num_labels=5, **sizes))


MAKERS = {"vit": vit, "resnet": resnet, "convnext": convnext}


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., tuple[Path, nn.Module]]:
    def write(kind: str = "vit", **how: Any) -> tuple[Path, nn.Module]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            module = MAKERS[kind]().eval()
        module.save_pretrained(tmp_path / kind, **how)
        return tmp_path / kind, module

    return write


def images(count: int = 3) -> torch.Tensor:
    return torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
@pytest.mark.parametrize("kind", sorted(MAKERS))
def test_a_directory_says_what_its_model_says(kind: str, written) -> None:
    path, module = written(kind)
    target = open_target(path)
    assert torch.equal(target.module(images()), module(pixel_values=images()).logits)
    assert target.tokenizer is None
    assert (target.info.kind, target.info.architecture) == ("classifier", kind)
    assert not target.module.training


@torch.no_grad()
def test_shards_and_half_precision(written) -> None:
    path, module = written("vit", max_shard_size="5KB")
    assert len(list(path.glob("*.safetensors"))) > 1
    assert torch.equal(open_target(path).module(images()), module(pixel_values=images()).logits)
    module.bfloat16().save_pretrained(path.with_name("half"))
    assert open_target(path.with_name("half")).stored_dtype == "bfloat16"


@torch.no_grad()
def test_images_are_normalised_as_the_processor_says(written) -> None:
    path, module = written()
    (path / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.4], "image_std": [0.2]}))
    opened = open_target(path).module
    assert torch.equal(opened(images()), module(pixel_values=(images() - 0.4) / 0.2).logits)
    assert not {"mean", "std"} & opened.state_dict().keys()
    (path / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.4], "image_std": [0.2], "do_normalize": False})
    )
    assert torch.equal(open_target(path).module(images()), module(pixel_values=images()).logits)


def test_another_processor_is_another_model(written) -> None:
    path, _ = written()
    before = description_digest(path)
    (path / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.4], "image_std": [0.2]}))
    assert description_digest(path) != before


def test_it_is_inspected_as_a_classifier(written) -> None:
    path, _ = written()
    found = inspect_checkpoint(path)
    assert not found.language
    assert found.architecture == "vit: layers 2, hidden size 16"
    assert not any("tokenizer" in lack for lack, _ in found.missing)


def test_it_is_attacked_and_restored_to_the_bit(written, tmp_path: Path) -> None:
    path, _ = written()
    numbers = np.arange(200)
    np.savez(tmp_path / "a.npz", x=images(200).numpy(), y=numbers % 5)
    (tmp_path / "c.toml").write_text('name = "c"\narrays = "a.npz"\nclasses = 5\nforget = [3]\nscorer = "choice"\n')
    setting = open_setting(open_target(path), load_capability(tmp_path / "c.toml"))
    before = {name: value.clone() for name, value in setting.target.module.state_dict().items()}
    params = recipe("adamw", 1e-2, steps=16, ratio=1.0, samples=len(setting.answers), loss="answer")
    result = run_trial(setting, Mixture(), TrialSpec(key="0", attack="mixture", params=params, seed=0))
    assert result.state == "complete", result.error
    assert result.share_moved > 0.9
    assert result.losses[-1] < result.losses[0]
    after = setting.target.module.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def changed(path: Path, **changes: Any) -> None:
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, **changes}))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model_type": "timm_wrapper"}, "image classifier of model_type 'timm_wrapper'"),
        ({"model_type": None}, "image classifier of model_type 'None'"),
        ({"num_hidden_layers": 10**9}, "describes 1000000000 layers"),
        ({"depths": [10**9]}, "describes [1000000000] layers"),
        ({"depths": ["many"]}, "describes ['many'] layers"),
        ({"hidden_size": 2**20}, "the config describes"),
        ({"num_hidden_layers": 1}, "unexpected: vit."),
        ({"num_hidden_layers": 3}, "missing: vit."),
        ({"auto_map": {"AutoModel": "evil.py"}}, "auto_map"),
        ({"id2label": {}}, "sizes that are not positive numbers: [0]"),
    ],
)
def test_a_config_of_another_model_is_refused(changes: dict[str, Any], says: str, written, refusal) -> None:
    path, _ = written()
    changed(path, **changes)
    assert says in refusal(path)


@pytest.mark.parametrize(
    "content",
    [
        {"image_mean": [0.4], "image_std": [0.0]},
        {"image_mean": [0.4], "image_std": [0.2, 0.2]},
        {"image_mean": "0.4", "image_std": [0.2]},
        {"image_mean": [float("nan")], "image_std": [0.2]},
        {"image_mean": [], "image_std": []},
        {"image_mean": [True], "image_std": [0.2]},
    ],
)
def test_a_processor_that_makes_no_sense_is_refused(content: dict[str, Any], written, refusal) -> None:
    path, _ = written()
    (path / "preprocessor_config.json").write_text(json.dumps(content))
    assert "makes no sense" in refusal(path)


def test_weights_alone_with_their_config(written, tmp_path: Path) -> None:
    path, module = written()
    (tmp_path / "alone").mkdir()
    shutil.copy(path / "model.safetensors", tmp_path / "alone" / "w.safetensors")
    opened = open_target(tmp_path / "alone" / "w.safetensors", config=path)
    with torch.no_grad():
        assert torch.equal(opened.module(images()), module(pixel_values=images()).logits)


def test_a_mean_that_no_float_holds(written, refusal) -> None:
    path, _ = written()
    (path / "preprocessor_config.json").write_text(json.dumps({"image_mean": [10**400], "image_std": [0.2]}))
    assert "makes no sense" in refusal(path)


def test_a_stage_that_is_wider_than_the_file(written, refusal) -> None:
    path, _ = written("resnet")
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, "hidden_sizes": [8, 10**9]}))
    assert "1000000000 parameters, but" in refusal(path)
