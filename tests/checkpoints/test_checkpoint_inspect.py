from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console
from run_redteam import redteam
from safetensors.torch import save_file
from tiny_classifiers import tiny_mlp
from torch import nn

from redteam.checkpoints.inspect import inspect_checkpoint
from redteam.checkpoints.load import open_target
from redteam.checkpoints.save import save_checkpoint
from redteam.errors import InputError
from redteam.reporting.inspected import print_inspected

FORMS = ["m.pt", "m.safetensors", "m"]


def printed(found) -> str:
    console = Console(file=io.StringIO(), width=100, color_system=None)
    print_inspected(found.as_json(), console)
    return console.file.getvalue()


@pytest.mark.parametrize("name", FORMS)
def test_every_form_is_told_as_it_opens(name, saved):
    path = saved(name)
    found, target = inspect_checkpoint(path), open_target(path)
    assert found.sha256 == target.sha256
    assert sum(found.elements.values()) == sum(parameter.numel() for parameter in target.module.parameters())
    assert found.architecture == "llama: layers 2, hidden size 16, vocabulary 32"
    assert found.tokenizer is not None
    assert [what for what, _ in found.missing] == ["no manifest says what was removed"]


def test_shards_are_one_model(module, described):
    module.save_pretrained(described, max_shard_size="4KB")
    found = inspect_checkpoint(described)
    assert found.files > 1
    assert found.size == sum(file.stat().st_size for file in described.glob("*.safetensors"))
    assert found.tensors.keys() == {name for name, _ in module.named_parameters()}
    assert found.elements.keys() == {"F32"}


@pytest.mark.parametrize("name", FORMS)
def test_a_classifier_is_told_by_its_description(name, tmp_path):
    module = tiny_mlp()
    save_checkpoint(tmp_path / name, module)
    found = inspect_checkpoint(tmp_path / name)
    assert found.architecture is not None
    assert found.architecture.startswith(module.description["name"])
    assert found.tokenizer is None
    assert not any("tokenizer" in what for what, _ in found.missing)


def test_weights_alone_say_what_they_lack(module, tmp_path):
    torch.save(module.state_dict(), tmp_path / "alone.pt")
    found = inspect_checkpoint(tmp_path / "alone.pt")
    assert found.described_by is None
    assert found.architecture == "a Llama-like language model"
    said = printed(found)
    assert "perhaps a Llama-like" in said
    assert "--config" in said
    assert "tokenizer.save_pretrained" in said
    assert "Next:" not in said


def test_a_config_given_is_the_one_that_counts(module, described, tmp_path):
    torch.save(module.state_dict(), tmp_path / "alone.pt")
    found = inspect_checkpoint(tmp_path / "alone.pt", config=described)
    assert found.described_by == str(described / "config.json")
    assert found.tokenizer == str(described / "tokenizer.json")
    assert inspect_checkpoint(tmp_path / "alone.pt", config=described / "config.json").tokenizer == found.tokenizer


def test_names_of_tensors_suggest_and_nothing_more(tmp_path):
    save_file({"conv1.weight": torch.zeros(2, 3, 3, 3)}, tmp_path / "c.safetensors")
    save_file({"w": torch.zeros(2)}, tmp_path / "u.safetensors")
    assert inspect_checkpoint(tmp_path / "c.safetensors").architecture == "a convolutional network"
    assert inspect_checkpoint(tmp_path / "u.safetensors").architecture is None


def test_a_built_target_lacks_nothing(untrained):
    found = inspect_checkpoint(untrained)
    assert found.missing == ()
    assert found.method is not None
    assert f"Next: redteam attack {untrained}" in printed(found)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"<!DOCTYPE html>"),
        lambda path: path.write_bytes(path.read_bytes()[:-900]),
        lambda path: torch.save(nn.Linear(2, 2), path),
        lambda path: torch.save({"w": torch.zeros(1).expand(10**9)}, path),
        lambda path: torch.save({"w": torch.eye(3).to_sparse()}, path),
    ],
    ids=["empty", "html", "truncated", "module", "stride 0", "sparse"],
)
def test_what_cannot_be_opened_is_refused_in_the_same_words(spoil, saved, refusal):
    path = saved("m.pt")
    spoil(path)
    with pytest.raises(InputError) as caught:
        inspect_checkpoint(path)
    assert str(caught.value) == refusal(path)


def test_a_config_that_asks_for_code_is_refused(saved, refusal):
    path = saved("m")
    config = json.loads((path / "config.json").read_text()) | {"auto_map": {"AutoConfig": "evil.py"}}
    (path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="never run") as caught:
        inspect_checkpoint(path)
    assert str(caught.value) == refusal(path)


def test_text_of_a_file_is_shown_as_text(tmp_path):
    """Neither colours nor a second line nor markup comes out of a file."""
    save_file({"w": torch.zeros(2)}, tmp_path / "m.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "[red]\x1b[31m\nRESISTED"}))
    said = printed(inspect_checkpoint(tmp_path / "m.safetensors"))
    assert "[red]" in said
    assert "\x1b" not in said
    assert "\nRESISTED" not in said


def sparse_shards(folder: Path, files: int, each: int) -> None:
    """A model of zeros that takes no room on a disk."""
    weight_map = {}
    for number in range(files):
        name = f"model-{number:05d}.safetensors"
        entry = {"dtype": "F32", "shape": [each // 4], "data_offsets": [0, each]}
        header = json.dumps({f"layer.{number}": entry}).encode()
        with (folder / name).open("wb") as file:
            file.write(len(header).to_bytes(8, "little") + header)
            file.truncate(8 + len(header) + each)
        weight_map[f"layer.{number}"] = name
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))


def test_fifty_gigabytes_are_told_from_their_headers(tmp_path):
    """In a process of its own, whose memory is that of its imports: no library for tensors among them."""
    sparse_shards(tmp_path, files=10, each=5 * 2**30)
    done = redteam("inspect", tmp_path, "--format", "json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["bytes"] > 50 * 2**30
    assert found["sha256"] is None
    assert found["elements"] == {"F32": 50 * 2**30 // 4}
    script = (
        "import sys, psutil; from pathlib import Path; from redteam.checkpoints.inspect import inspect_checkpoint;"
        "inspect_checkpoint(Path(sys.argv[1])); assert not {'torch', 'transformers'} & set(sys.modules);"
        "print(psutil.Process().memory_info().rss)"
    )
    used = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True)
    assert int(used.stdout) < 100 * 2**20


def test_the_command_says_it_in_a_table_and_in_json(untrained, tmp_path):
    done = redteam("inspect", untrained)
    assert done.returncode == 0, done.stderr
    assert "llama" in done.stdout
    found = json.loads(redteam("inspect", untrained, "--format", "json").stdout)
    assert found == json.loads(json.dumps(inspect_checkpoint(untrained).as_json()))
    (tmp_path / "empty.pt").touch()
    refused = redteam("inspect", tmp_path / "empty.pt")
    assert refused.returncode == 2
    assert "is empty" in refused.stderr
    assert refused.stdout == ""


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param('{"a": [' + "[]," * 100_000 + "1]}", "has more than", id="large"),
        pytest.param(json.dumps({"method": "x", "o" * 9000: 1}), "(and 3 more)", id="a long key"),
        pytest.param(
            json.dumps({"method": "x", "seed": 1, "options": {"o" * 9000: []}}), "options.oooo", id="a long key inside"
        ),
    ],
)
def test_manifests_that_say_too_much(saved, text, words):
    path = saved("m.safetensors")
    path.with_suffix(".redteam.json").write_text(text)
    with pytest.raises(InputError) as caught:
        inspect_checkpoint(path)
    assert words in str(caught.value)
    assert len(str(caught.value)) < 900
