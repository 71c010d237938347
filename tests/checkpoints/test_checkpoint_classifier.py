"""Classifiers on disk: three forms, and descriptions that nobody should trust."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tiny_classifiers import SIZES, tiny_mlp
from tiny_models import same_bits, tiny_llama, weights_of
from torch import nn

from redteam.checkpoints.digest import weights_digest
from redteam.checkpoints.load import open_target
from redteam.checkpoints.save import save_checkpoint
from redteam.checkpoints.trio import Trio, beside, save_trio
from redteam.config.manifest import TestbedRef
from redteam.errors import InputError

FORMS = ["m.pt", "m.safetensors", "m"]
GOOD = {"name": "mlp", "sizes": list(SIZES)}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_classifier_that_was_saved(tmp_path: Path, form: str) -> None:
    module = tiny_mlp()
    digest = save_checkpoint(tmp_path / form, module)
    state = torch.get_rng_state()
    target = open_target(tmp_path / form, expect_sha256=digest)
    assert torch.equal(torch.get_rng_state(), state)
    assert same_bits(weights_of(target.module), weights_of(module))
    assert target.module.description == GOOD
    assert not target.module.training
    assert all(p.requires_grad for p in target.module.parameters())
    assert target.tokenizer is None
    info = target.info
    assert (info.architecture, info.layers, info.hidden_size) == ("mlp", 2, 16)
    assert info.parameters == 6 * 16 + 16 + 16 * 12 + 12 + 12 * 4 + 4


@pytest.mark.parametrize("form", FORMS)
def test_equal_classifiers_give_equal_bytes(tmp_path: Path, form: str) -> None:
    first = save_checkpoint(tmp_path / "a" / form, tiny_mlp())
    again = save_checkpoint(tmp_path / "b" / form, open_target(tmp_path / "a" / form).module)
    assert first == again == weights_digest(tmp_path / "b" / form)
    assert save_checkpoint(tmp_path / "c" / form, tiny_mlp(1)) != first


@pytest.mark.parametrize("form", FORMS)
def test_half_precision_is_widened_and_recorded(tmp_path: Path, form: str) -> None:
    half = tiny_mlp().to(torch.bfloat16)
    save_checkpoint(tmp_path / form, half)
    target = open_target(tmp_path / form)
    assert target.stored_dtype == "bfloat16"
    assert same_bits(weights_of(target.module), {n: t.float() for n, t in weights_of(half).items()})


@pytest.mark.parametrize("form", FORMS)
def test_weights_do_not_change_with_the_file(tmp_path: Path, form: str) -> None:
    save_checkpoint(tmp_path / form, tiny_mlp())
    target = open_target(tmp_path / form)
    file = tmp_path / form / "model.safetensors" if form == "m" else tmp_path / form
    with file.open("r+b") as opened:
        opened.write(bytes(file.stat().st_size))
    assert same_bits(weights_of(target.module), weights_of(tiny_mlp()))


@pytest.mark.parametrize("form", FORMS)
def test_a_trio_may_be_of_several_architectures(tmp_path: Path, form: str) -> None:
    trio = Trio(target=tiny_mlp(0, (6, 9, 4)), original=tiny_mlp(1), reference=tiny_mlp(2), tokenizer=None)
    ref = TestbedRef(testbed="digits", seed=0, sha256="0" * 64)
    save_trio(tmp_path / form, trio, method="none", seed=0, capability=ref)
    for role in ("target", "original", "reference"):
        opened = open_target(beside(tmp_path / form, role))
        assert same_bits(weights_of(opened.module), weights_of(getattr(trio, role)))


def test_weights_with_a_config_beside_them(tmp_path: Path) -> None:
    torch.save(tiny_mlp().state_dict(), tmp_path / "w.pt")
    (tmp_path / "config.json").write_text(json.dumps({"redteam_architecture": GOOD}))
    assert same_bits(weights_of(open_target(tmp_path / "w.pt").module), weights_of(tiny_mlp()))
    save_checkpoint(tmp_path / "own.pt", tiny_mlp(1, (6, 4)))  # carries its own description, which goes first
    assert open_target(tmp_path / "own.pt").module.description["sizes"] == [6, 4]


HOSTILE: list[tuple[Any, str]] = [
    ({"name": "resnet", "sizes": [1]}, "no architecture named 'resnet'"),
    ({"name": "evil.py:Module"}, "no architecture named"),
    ({"name": "torch.nn:Linear", "in_features": 6, "out_features": 4}, "no architecture named"),
    ({"name": ["mlp"]}, "does not describe"),
    ({"sizes": [6, 4]}, "does not describe"),
    ({**GOOD, "sizes": [6, 10**12, 4]}, "size of 1000000000000"),
    ({**GOOD, "sizes": [6, 10**400, 4]}, "size of 1000"),
    ({**GOOD, "sizes": [9999, 9999, 9999]}, "does not fit"),
    ({**GOOD, "sizes": [1] * 3000}, "by 3000 numbers"),
    ({**GOOD, "sizes": [6, -1, 4]}, "no size"),
    ({**GOOD, "sizes": [6, "16", 4]}, "no size"),
    ({**GOOD, "sizes": [6, True, 4]}, "no size"),
    ({**GOOD, "sizes": [6, [16], 4]}, "no size"),
    ({**GOOD, "sizes": [6, None, 4]}, "no size"),
    ({**GOOD, "sizes": {"a": 1}}, "no size"),
    ({**GOOD, "sizes": [6, float("nan"), 4]}, "no size"),
    ({**GOOD, "sizes": [6, 16.0, 12, 4]}, "no mlp can be built"),
    ({**GOOD, "sizes": [6, 0, 4]}, "no mlp can be built"),
    ({**GOOD, "sizes": 6}, "no mlp can be built"),
    ({"name": "mlp"}, "no mlp can be built"),
    ({**GOOD, "device": 3}, "no mlp can be built"),
    ({**GOOD, "self": 3}, "no mlp can be built"),
    ([GOOD], "no readable description"),
    ("mlp", "no readable description"),
]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("description", "says"), HOSTILE)
def test_a_hostile_description_is_refused_in_one_line(
    tmp_path: Path, refusal: Any, form: str, description: Any, says: str
) -> None:
    state, text = tiny_mlp().state_dict(), json.dumps(description)
    if form == "m.pt":
        torch.save({"format": "redteam-checkpoint-1", "model": state, "architecture": text}, tmp_path / form)
    elif form == "m.safetensors":
        save_file(state, tmp_path / form, metadata={"redteam_architecture": text})
    else:
        (tmp_path / form).mkdir()
        save_file(state, tmp_path / form / "model.safetensors")
        (tmp_path / form / "config.json").write_text(f'{{"redteam_architecture": {text}}}')
        says = says.replace("no readable description", "does not describe")
    assert says in refusal(tmp_path / form)


@pytest.mark.parametrize("text", [7, "{", "[" * 100_000, '{"name": "mlp", "sizes": [' + "6," * 9_000 + "4]}"])
def test_a_description_that_is_no_text(tmp_path: Path, refusal: Any, text: Any) -> None:
    payload = {"format": "redteam-checkpoint-1", "model": tiny_mlp().state_dict(), "architecture": text}
    torch.save(payload, tmp_path / "m.pt")
    assert "no readable" in refusal(tmp_path / "m.pt")


def test_a_config_that_is_of_two_kinds(tmp_path: Path, refusal: Any) -> None:
    torch.save(tiny_mlp().state_dict(), tmp_path / "w.pt")
    (tmp_path / "config.json").write_text(json.dumps({"redteam_architecture": GOOD, "model_type": "llama"}))
    assert "does not describe" in refusal(tmp_path / "w.pt")


@pytest.mark.parametrize("installed", ["evil.py:Module", "redteam.architectures.mlp:MLP"])
def test_an_installed_package_adds_nothing_that_a_file_could_name(
    tmp_path: Path, refusal: Any, monkeypatch: pytest.MonkeyPatch, installed: str
) -> None:
    from importlib.metadata import EntryPoint

    point = EntryPoint("other", installed, "redteam.architectures")
    monkeypatch.setattr("redteam.registry.entry_points", lambda **_: [point])
    payload = {"format": "redteam-checkpoint-1", "model": tiny_mlp().state_dict()}
    torch.save({**payload, "architecture": json.dumps({**GOOD, "name": "other"})}, tmp_path / "m.pt")
    assert "no architecture named 'other'" in refusal(tmp_path / "m.pt")


def test_what_differs_is_named(tmp_path: Path, refusal: Any) -> None:
    state = tiny_mlp().state_dict()
    del state["layers.linear1.bias"]
    state["layers.linear2.weight"] = torch.zeros(3, 3)
    state["layers.linear9.weight"] = torch.zeros(3)
    payload = {"format": "redteam-checkpoint-1", "model": state, "architecture": json.dumps(GOOD)}
    torch.save(payload, tmp_path / "m.pt")
    message = refusal(tmp_path / "m.pt")
    assert "missing: layers.linear1.bias" in message
    assert "unexpected: layers.linear9.weight" in message
    assert "shape of layers.linear2.weight: file (3, 3), wanted (12, 16)" in message


def test_weights_that_are_no_numbers(tmp_path: Path, refusal: Any) -> None:
    module = tiny_mlp()
    with torch.no_grad():
        module.layers.linear2.bias[3] = float("nan")
    save_checkpoint(tmp_path / "m.pt", module)
    assert "NaN or infinite" in refusal(tmp_path / "m.pt")
    state = tiny_mlp().state_dict()
    state["layers.linear2.bias"] = torch.zeros(12, dtype=torch.int64)
    torch.save({"format": "redteam-checkpoint-1", "model": state, "architecture": json.dumps(GOOD)}, tmp_path / "i.pt")
    assert "stored as torch.int64" in refusal(tmp_path / "i.pt")


def test_what_cannot_be_rebuilt_is_not_saved(tmp_path: Path) -> None:
    class Impostor(nn.Linear):
        description = GOOD

    for module in (nn.Linear(2, 2), Impostor(2, 2)):
        with pytest.raises(TypeError, match=type(module).__name__):
            save_checkpoint(tmp_path / "m.pt", module)
    with pytest.raises(TypeError, match="tokenizer"):
        save_checkpoint(tmp_path / "m.pt", tiny_llama())
    assert not list(tmp_path.iterdir())


def test_a_language_model_in_place_of_a_classifier(tmp_path: Path) -> None:
    torch.save(tiny_llama().state_dict(), tmp_path / "w.pt")
    (tmp_path / "config.json").write_text(json.dumps({"redteam_architecture": GOOD}))
    with pytest.raises(InputError, match="does not fit"):
        open_target(tmp_path / "w.pt")
