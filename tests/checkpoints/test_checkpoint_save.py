from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from redteam.checkpoints.digest import weights_digest
from redteam.checkpoints.load import open_target
from redteam.checkpoints.manifest import manifest_path, open_manifest, write_manifest
from redteam.checkpoints.save import save_checkpoint
from redteam.config.manifest import CheckpointRef, Manifest
from redteam.errors import InputError

FORMS = ["m.pt", "m.safetensors", "m"]
DIGEST = "ab" * 32


def tree(folder):
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


@pytest.mark.parametrize("form", FORMS)
def test_equal_models_give_equal_bytes_whatever_the_path(tmp_path, make, tokenizer, form):
    suffix = form.removeprefix("m")
    first = save_checkpoint(tmp_path / "a" / f"one{suffix}", make(), tokenizer)
    second = save_checkpoint(tmp_path / "b" / f"another{suffix}", make(), tokenizer)
    other = save_checkpoint(tmp_path / "c" / f"one{suffix}", make(seed=1), tokenizer)
    assert first == second == weights_digest(tmp_path / "b" / f"another{suffix}")
    assert other != first


@pytest.mark.parametrize("form", FORMS)
def test_what_was_loaded_is_saved_to_the_same_bytes(saved, tmp_path, form):
    path = saved(form)
    target = open_target(path)
    assert save_checkpoint(tmp_path / "again" / form, target.module, target.tokenizer) == target.sha256
    if form != "m":
        assert tree(path.parent) == tree(tmp_path / "again")


def test_equal_bytes_in_another_process(saved, tmp_path):
    path = saved("m.pt")
    code = (
        "import sys; from pathlib import Path;"
        "from redteam.checkpoints.load import open_target; from redteam.checkpoints.save import save_checkpoint;"
        "t = open_target(Path(sys.argv[1])); print(save_checkpoint(Path(sys.argv[2]), t.module, t.tokenizer))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path), str(tmp_path / "x.pt")],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONHASHSEED": "5"},
    )
    assert done.stdout.strip() == weights_digest(path)


def test_saving_twice_with_save_pretrained_between_gives_equal_bytes(tmp_path, module, tokenizer):
    first = save_checkpoint(tmp_path / "a.pt", module, tokenizer)
    save_checkpoint(tmp_path / "d", module, tokenizer)
    assert save_checkpoint(tmp_path / "b.pt", module, tokenizer) == first


def test_our_pt_holds_tensors_and_text_only(saved):
    loaded = torch.load(saved("m.pt"), weights_only=True)
    assert loaded.keys() == {"format", "model", "config", "tokenizer"}
    assert json.loads(loaded["config"])["model_type"] == "llama"
    assert {"tokenizer.json", "tokenizer_config.json"} <= loaded["tokenizer"].keys()
    assert all(isinstance(text, str) for text in loaded["tokenizer"].values())


def test_a_view_is_saved_without_the_rest_of_its_storage(tmp_path, module, tokenizer):
    module.model.norm.weight = nn.Parameter(torch.ones(10**6)[:16])
    save_checkpoint(tmp_path / "m.pt", module, tokenizer)
    assert (tmp_path / "m.pt").stat().st_size < 10**5


@pytest.mark.parametrize("form", FORMS)
def test_an_earlier_checkpoint_is_replaced(tmp_path, make, tokenizer, logits, form):
    save_checkpoint(tmp_path / form, make(), tokenizer)
    before = tree(tmp_path).keys()
    newer = make(seed=1)
    save_checkpoint(tmp_path / form, newer, tokenizer)
    assert torch.equal(logits(open_target(tmp_path / form).module), logits(newer))
    assert tree(tmp_path).keys() == before
    assert not [entry for entry in os.listdir(tmp_path) if entry.startswith(".")]


def test_a_sharded_checkpoint_leaves_no_shard_behind(tmp_path, make, tokenizer, logits):
    make().save_pretrained(tmp_path / "m", max_shard_size="5KB")
    tokenizer.save_pretrained(tmp_path / "m")
    newer = make(seed=1)
    save_checkpoint(tmp_path / "m", newer, tokenizer)
    assert [f.name for f in (tmp_path / "m").glob("*.safetensors*")] == ["model.safetensors"]
    assert torch.equal(logits(open_target(tmp_path / "m").module), logits(newer))


def test_a_directory_of_someone_else_is_left_alone(tmp_path, module, tokenizer):
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match=r"redteam did not write.*thesis\.tex"):
        save_checkpoint(folder, module, tokenizer)
    assert tree(folder) == {"thesis.tex": b"years of work"}
    (folder / "thesis.tex").unlink()
    save_checkpoint(folder, module, tokenizer)
    assert (folder / "model.safetensors").exists()


def test_config_of_another_model_is_left_alone(tmp_path, make, tokenizer):
    save_checkpoint(tmp_path / "a.safetensors", make(), tokenizer)
    save_checkpoint(tmp_path / "b.safetensors", make(seed=1), tokenizer)
    before = tree(tmp_path)
    with pytest.raises(InputError, match="belongs to another model"):
        save_checkpoint(tmp_path / "c.safetensors", make(num_hidden_layers=1), tokenizer)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("form", FORMS)
def test_a_place_that_cannot_be_written(tmp_path, module, tokenizer, form):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        save_checkpoint(tmp_path / "file" / form, module, tokenizer)


@pytest.mark.parametrize("form", FORMS)
def test_a_failure_leaves_the_old_checkpoint_and_no_rubbish(saved, make, tokenizer, monkeypatch, form):
    path = saved(form)
    before = tree(path.parent)

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    monkeypatch.setattr(os, "rename", fail)
    with pytest.raises(InputError, match="No space left on device"):
        save_checkpoint(path, make(seed=1), tokenizer)
    assert tree(path.parent) == before
    assert not [entry for entry in os.listdir(path.parent) if entry.startswith(".")]


@pytest.mark.parametrize("name", ["m.bin", "m.gguf", "m.pth"])
def test_unknown_suffix(tmp_path, module, tokenizer, name):
    with pytest.raises(InputError, match="no form of checkpoint"):
        save_checkpoint(tmp_path / name, module, tokenizer)


def test_a_number_after_a_dot_is_no_suffix(tmp_path, module, tokenizer):
    save_checkpoint(tmp_path / "qwen2.5-0.5b", module, tokenizer)
    assert (tmp_path / "qwen2.5-0.5b" / "config.json").is_file()


def test_names_that_are_taken(tmp_path, module, tokenizer):
    (tmp_path / "m.pt").mkdir()
    with pytest.raises(InputError, match="is a directory"):
        save_checkpoint(tmp_path / "m.pt", module, tokenizer)
    (tmp_path / "m").write_text("")
    with pytest.raises(InputError, match="is a file"):
        save_checkpoint(tmp_path / "m", module, tokenizer)


def test_a_module_that_no_config_describes(tmp_path, tokenizer):
    with pytest.raises(TypeError, match="not a Linear"):
        save_checkpoint(tmp_path / "m.pt", nn.Linear(2, 2), tokenizer)


def test_digest_of_a_file_and_of_a_directory(tmp_path):
    one, two = tmp_path / "b.safetensors", tmp_path / "a.safetensors"
    one.write_bytes(b"one")
    two.write_bytes(b"two")
    (tmp_path / "config.json").write_text("does not count")
    digests = [hashlib.sha256(content).hexdigest() for content in (b"two", b"one")]
    lines = f"a.safetensors {digests[0]}\nb.safetensors {digests[1]}\n"
    assert weights_digest(one) == digests[1]
    assert weights_digest(tmp_path) == hashlib.sha256(lines.encode()).hexdigest()
    one.rename(tmp_path / "c.safetensors")
    assert weights_digest(tmp_path) != hashlib.sha256(lines.encode()).hexdigest()


def test_digest_of_nothing(tmp_path):
    with pytest.raises(InputError, match=r"no weight files"):
        weights_digest(tmp_path)
    with pytest.raises(InputError, match="cannot be read"):
        weights_digest(tmp_path / "gone.pt")


@pytest.mark.parametrize(
    ("form", "sidecar"), [("m.pt", "m.redteam.json"), ("m", "m/redteam.json"), ("a.b.pt", "a.b.redteam.json")]
)
def test_manifest(saved, form, sidecar):
    path = saved(form)
    manifest = Manifest(
        method="rmu", seed=3, target=CheckpointRef(path=form, sha256=DIGEST), capability="capability.toml"
    )
    assert open_manifest(path) is None
    written = write_manifest(path, manifest)
    assert written == manifest_path(path) == path.parent / sidecar
    assert open_manifest(path) == (manifest, written)
    assert written.read_text().endswith("}\n")
    written.write_text("{}")
    with pytest.raises(InputError, match="method"):
        open_manifest(path)


def test_a_directory_with_its_manifest_can_be_replaced(saved, make, tokenizer):
    path = saved("m")
    write_manifest(path, Manifest(method="x", seed=0, target=CheckpointRef(path=".", sha256=DIGEST), capability="c"))
    save_checkpoint(path, make(seed=1), tokenizer)
    assert open_manifest(path) is None
