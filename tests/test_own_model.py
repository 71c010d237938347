"""A model of the user's own architecture, and a capability that is some of its classes: from files to verdict."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from own_resnet import small_cnn
from run_redteam import redteam
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional

import redteam as package
from redteam.attacks.mixture import Mixture
from redteam.attacks.tuning import recipe
from redteam.capabilities.files import load_capability
from redteam.checkpoints.load import open_target
from redteam.config.request import RunRequest
from redteam.errors import InputError
from redteam.setting import open_setting
from redteam.suite.inputs import resolve, resolve_one
from redteam.trial import TrialSpec, run_trial

HERE = Path(__file__).with_name("own_resnet.py")
QUICK = Path(__file__).with_name("quick_attack.py")
DATA = os.environ.get("REDTEAM_DATA")
FORGOTTEN = 3


def arrays() -> tuple[np.ndarray, np.ndarray]:
    """Digits as people keep images: bytes, channels last."""
    pixels, digits = load_digits(return_X_y=True)
    return (pixels.reshape(-1, 8, 8, 1) * 15.9).astype(np.uint8), digits.astype(np.int64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Arrays, rules, and models: one that knows all digits, the same with one pushed down, one that never saw it."""
    folder = tmp_path_factory.mktemp("own")
    x, y = arrays()
    names = np.array([f"digit {number}" for number in range(10)])
    np.savez(folder / "digits.npz", x=x, y=y, classes=names)
    (folder / "three.toml").write_text(
        'name = "threes"\narrays = "digits.npz"\nclasses = "classes"\nforget = ["digit 3"]\nchannels = "last"\n'
        "splits = { attack = 0.1, select = 0.3, certify = 0.6 }\n"
    )
    shown = load_capability(folder / "three.toml")
    rows = [item.row for item in (*shown.forget, *shown.retain)]
    inputs = torch.from_numpy(shown.inputs[rows])
    labels = torch.tensor([item.answer for item in (*shown.forget, *shown.retain)])
    original = trained(inputs, labels, seed=0)
    save(folder / "original.th", original)
    with torch.no_grad():
        original[-1].bias[FORGOTTEN] -= 12
    save(folder / "target.th", original)
    save(folder / "reference.th", trained(inputs[labels != FORGOTTEN], labels[labels != FORGOTTEN], seed=1))
    return folder


def trained(inputs: torch.Tensor, labels: torch.Tensor, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    module = small_cnn().train()
    optimizer = torch.optim.AdamW(module.parameters(), lr=5e-3)
    for _ in range(12):
        for rows in torch.randperm(len(labels)).split(64):
            optimizer.zero_grad()
            functional.cross_entropy(module(inputs[rows]), labels[rows]).backward()
            optimizer.step()
    return module.eval()


def save(path: Path, module: nn.Module) -> None:
    """As DataParallel leaves it, in the format of 2019."""
    state = {f"module.{name}": value for name, value in module.state_dict().items()}
    torch.save({"best_prec1": 91.7, "state_dict": state}, path, _use_new_zipfile_serialization=False)


def arguments(folder: Path, arch: str = "small_cnn") -> list[str | Path]:
    models = [f"--{role}={folder / role}.th" for role in ("original", "reference")]
    return [folder / "target.th", "--arch", f"{HERE}:{arch}", "--capability", folder / "three.toml", *models]


@pytest.mark.slow
def test_from_files_to_verdict(folder: Path, tmp_path: Path) -> None:
    chosen = ["-a", f"{QUICK}:Mixed", "-a", "head", "--budget", "6", "--format", "json", "--out", tmp_path / "run"]
    done = redteam("attack", *arguments(folder), *chosen)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("is code of yours and is run") == 1
    (found,) = json.loads(done.stdout)["capabilities"]
    assert found["chance"] == pytest.approx(0.01)
    assert found["scores"]["original"]["before"] > 0.9
    assert found["scores"]["target"]["before"] > 0.9  # a bias hides a class from its accuracy alone
    assert found["scores"]["target"]["after"]["estimate"] > 0.9
    assert "few-references" in [flag["name"] for flag in found["flags"]]
    assert found["verdict"] == "RECOVERED"
    assert found["budget"]["failed"] == 0
    plan = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert len(set(plan["descriptions"].values())) == 1  # one function builds all three


def test_it_opens_to_the_bit(folder: Path) -> None:
    held = torch.load(folder / "target.th")["state_dict"]
    target = open_target(folder / "target.th", arch=f"{HERE}:small_cnn")
    assert target.tokenizer is None
    assert not target.module.training
    for name, value in target.module.state_dict().items():
        assert torch.equal(value, held[f"module.{name}"]), name


def test_the_source_is_part_of_what_a_run_is_about(folder: Path, tmp_path: Path) -> None:
    """A function that builds another model of the same weights makes another run."""
    other = tmp_path / "own.py"
    other.write_text(HERE.read_text() + "\n# changed\n")

    def fingerprint(place: str) -> str:
        given = {"capability": folder / "three.toml", "budget": 1, "attacks": ("noop",)}
        return resolve_one(RunRequest(target=folder / "target.th", arch=place, **given)).plan.fingerprint

    assert fingerprint(f"{HERE}:small_cnn") == fingerprint(f"{HERE}:small_cnn")
    assert fingerprint(f"{HERE}:small_cnn") != fingerprint(f"{other}:small_cnn")


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("own_resnet:small_cnn", "names no function in a file"),
        ("gone.py:make", "there is no file gone.py"),
        (f"{HERE}:nothing", "has no function 'nothing'"),
        (f"{HERE}:broken", "fails (RuntimeError: no such dataset second line)"),
        (f"{HERE}:no_module", "returns a dict"),
        (f"{HERE}:resnet20", "missing: bn1.bias"),
    ],
)
def test_a_function_that_builds_nothing_is_told_in_one_line(
    place: str, words: str, folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError) as caught:
        package.attack(folder / "target.th", arch=place, capability=folder / "three.toml", out=tmp_path / "run")
    assert words in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_an_adversary_without_examples_needs_an_attack_too(folder: Path, tmp_path: Path) -> None:
    asked = {"arch": f"{HERE}:small_cnn", "capability": folder / "three.toml", "out": tmp_path / "run"}
    with pytest.raises(InputError, match="imprint, mixture: none works without examples of what was removed"):
        package.attack(folder / "target.th", attacks=["mixture", "imprint"], **asked)
    again = RunRequest(target=folder / "target.th", attacks=("imprint",), **asked)  # what won is run as it was
    assert [list(one.attacks) for one in resolve(again, searched=False)] == [["imprint"]]


def test_so_is_it_on_the_command_line(folder: Path, tmp_path: Path) -> None:
    done = redteam("attack", *arguments(folder, arch="broken"), "--out", tmp_path / "run")
    assert done.returncode == 2
    assert "fails (RuntimeError: no such dataset second line)" in done.stderr
    assert "Traceback" not in done.stderr


RULES = {"name": "c", "arrays": "a.npz", "classes": 3, "forget": [0], "scorer": "choice"}  # of few, accuracy


def loaded(tmp_path: Path, held: dict[str, np.ndarray], **changes):
    np.savez(tmp_path / "a.npz", **held)
    lines = [f"{key} = {json.dumps(value)}" for key, value in (RULES | changes).items() if value is not None]
    (tmp_path / "c.toml").write_text("\n".join(lines))
    return load_capability(tmp_path / "c.toml")


def some(n: int = 60) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(0)
    return {"x": draw.normal(size=(n, 4)).astype(np.float32), "y": np.arange(n) % 3, "names": np.array(["a", "b", "c"])}


def test_every_split_shows_what_it_should(tmp_path: Path) -> None:
    held = some()
    found = loaded(tmp_path, held, forget=["b"], classes="names")
    assert all(item.answer == 1 for item in found.forget)
    assert all(item.answer != 1 for item in (*found.retain, *found.utility))
    assert len(found.forget) == 20
    rows = [item.row for part in (found.forget, found.retain, found.utility) for item in part]
    assert sorted(rows) == list(range(60))
    for item in found.forget:
        assert np.array_equal(found.inputs[item.row], held["x"][int(item.group)])
        assert held["y"][int(item.group)] == item.answer
        assert item.choices == ("a", "b", "c")


def test_bytes_are_pixels_and_channels_come_first(tmp_path: Path) -> None:
    held = some() | {"x": np.random.default_rng(0).integers(0, 256, size=(60, 5, 4, 3), dtype=np.uint8)}
    found = loaded(tmp_path, held, channels="last")
    item = found.attack[0]
    assert found.inputs.shape == (60, 3, 5, 4)
    assert np.allclose(found.inputs[item.row], held["x"][int(item.group)].transpose(2, 0, 1) / 255)


def test_an_example_that_occurs_twice_counts_once(tmp_path: Path) -> None:
    held = some()
    held["x"][3] = held["x"][0]  # both of class 0
    found = loaded(tmp_path, held)
    assert len(found.forget) == 19


def test_no_more_than_asked_for(tmp_path: Path) -> None:
    found = loaded(tmp_path, some(600), most=12)
    assert len(found.forget) == 12
    assert len(found.retain) + len(found.utility) == 120
    assert len(found.inputs) == 132
    again = loaded(tmp_path, some(600), most=12, seed=1)
    assert {item.id for item in again.forget} != {item.id for item in found.forget}


@pytest.mark.parametrize(
    ("changes", "held", "words"),
    [
        ({"forget": [3]}, {}, "no class 3 to forget"),
        ({"forget": ["a"]}, {}, "no class 'a' to forget. There are: 0, 1, 2"),
        ({"forget": [0, 1, 2]}, {}, "every example is of what was removed"),
        ({"inputs": "images"}, {}, "has no array 'images', it has names, x, y"),
        ({"arrays": "b.npz"}, {}, "there is no file of arrays"),
        ({"classes": "y"}, {}, "does not name two or more different classes"),
        ({"classes": 2}, {}, "are no numbers of 2 classes"),
        ({"channels": "middle"}, {}, "channels"),
        ({"chanels": "last"}, {}, "chanels"),
        ({}, {"y": np.arange(59)}, "no numbers of 3 classes"),
        ({}, {"y": np.zeros(59, dtype=int)}, "60 inputs and 59 labels"),
        ({}, {"y": np.zeros(60)}, "no numbers of 3 classes"),
        ({}, {"x": np.full((60, 4), np.nan, dtype=np.float32)}, "NaN or infinite"),
        ({}, {"x": np.array(["a"] * 60)}, "of shape (60,)"),
        ({}, {"x": np.array([object()] * 60)}, "is no readable .npz file"),
    ],
)
def test_rules_and_arrays_that_make_no_sense(changes, held, words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        loaded(tmp_path, some() | held, **changes)
    assert words in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_what_is_no_file_of_arrays(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(b"PK\x03\x04 no")
    (tmp_path / "c.toml").write_text('name = "c"\narrays = "a.npz"\nclasses = 3\nforget = [0]\nscorer = "choice"\n')
    with pytest.raises(InputError, match=r"is no readable .npz"):
        load_capability(tmp_path / "c.toml")


@pytest.mark.slow
@pytest.mark.skipif(DATA is None, reason="REDTEAM_DATA is not set")
def test_a_published_resnet_that_forgot_cats(tmp_path: Path) -> None:
    """The ResNet-20 for CIFAR-10 as its author saved it in 2019; SSD removes a class, retraining brings it back."""
    rules = tmp_path / "cats.toml"
    rules.write_text(
        'name = "cats"\narrays = "$REDTEAM_DATA/cifar10/cifar10_small.npz"\ninputs = "x_train"\nlabels = "y_train"\n'
        'classes = "classes"\nforget = ["cat"]\nchannels = "last"\nmost = 150\nscorer = "choice"\n'
        "splits = { attack = 0.2, select = 0.3, certify = 0.5 }\n"
    )
    published, arch = Path(DATA or "") / "cifar_resnets" / "resnet20-12fca82f.th", f"{HERE}:resnet20"
    capability, model = load_capability(rules), open_target(published, arch=arch).module

    def shown(items) -> tuple[torch.Tensor, torch.Tensor]:
        return (
            torch.from_numpy(capability.inputs[[item.row for item in items]]),
            torch.tensor([item.answer for item in items]),
        )

    forget, retain = shown(capability.forget), shown(capability.retain)
    unlearned = package.unlearn("ssd", model, forget=forget, retain=retain, full="retain", alpha=28.0)
    torch.save({"state_dict": unlearned.module.state_dict()}, tmp_path / "ssd.th")
    setting = open_setting(open_target(tmp_path / "ssd.th", arch=arch), capability)
    held = {name: value.clone() for name, value in setting.target.module.state_dict().items()}
    params = recipe("adamw", 1e-3, steps=16, ratio=1.0, samples=len(setting.answers), loss="answer")
    spec = TrialSpec(key="0", attack="mixture", params=params, seed=0, certify=True)
    result = run_trial(setting, Mixture(), spec)
    assert result.state == "complete", result.error
    before, after = (point.scores["certify"].mean() for point in (result.points[0], result.points[-1]))
    knew = open_setting(open_target(published, arch=arch), capability).start
    assert knew["certify"].mean() > 0.7
    assert before < 0.5 * knew["certify"].mean()
    assert after > 2 * before
    for name, value in setting.target.module.state_dict().items():
        assert torch.equal(value, held[name]), name
