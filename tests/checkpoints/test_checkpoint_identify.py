from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import tarfile
import tracemalloc
import zipfile

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from redteam.checkpoints.identify import Kind, identify
from redteam.checkpoints.save import save_checkpoint


@pytest.mark.parametrize(
    ("saved_as", "kind"),
    [("m.pt", Kind.TORCH), ("m.safetensors", Kind.SAFETENSORS), ("m", Kind.DIRECTORY)],
)
def test_the_three_forms_are_told_apart(saved, saved_as, kind):
    assert identify(saved(saved_as)) is kind


def test_a_name_promises_nothing(saved, tmp_path):
    renamed = shutil.copy(saved("m.safetensors"), tmp_path / "renamed.pt")
    assert identify(renamed) is Kind.SAFETENSORS
    renamed = shutil.copy(saved("m.pt"), tmp_path / "renamed.safetensors")
    assert identify(renamed) is Kind.TORCH


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"\n <!DOCTYPE html><html><title>Quota exceeded</title>", "HTML page"),
        (b"<html><body>Sign in", "HTML page"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code>", "XML page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "git lfs pull"),
        (b"GGUF\x03\x00\x00\x00", "GGUF"),
        (b'{"weight_map": {}}', "a JSON file"),
        (b"\x1f\x8b\x08\x00", "gzip"),
        (b"PK\x03\x04 and then nothing of a zip", "truncated or damaged zip"),
        (b"\x07\x01\x02\x03 \x1b[31mred", "no checkpoint that redteam knows"),
        (b"P", "no checkpoint that redteam knows"),
    ],
)
def test_files_of_other_kinds_are_named(tmp_path, refusal, content, words):
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    message = refusal(path)
    assert words in message
    assert str(path) in message


def test_missing(tmp_path, refusal):
    assert "there is no checkpoint" in refusal(tmp_path / "nowhere.pt")


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_pickle_is_refused_and_what_torch_made_of_pickles_is_not(protocol, tmp_path, refusal, module):
    legacy = tmp_path / "legacy.pt"
    torch.save(module.state_dict(), legacy, _use_new_zipfile_serialization=False)
    assert identify(legacy) is Kind.LEGACY
    plain = tmp_path / "plain.pkl"
    plain.write_bytes(pickle.dumps({"a": 1}, protocol))
    assert "is a pickle, which runs code" in refusal(plain)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_torchscript(tmp_path, refusal):
    path = tmp_path / "script.pt"
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), path)
    assert "TorchScript" in refusal(path)


def test_exported_program(tmp_path, refusal):
    path = tmp_path / "program.pt2"
    torch.export.save(torch.export.export(nn.Linear(2, 2), (torch.ones(1, 2),)), path)
    assert ".pt2 archive" in refusal(path)


def test_a_zip_of_something_else(tmp_path, refusal):
    path = tmp_path / "photos.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("photos/1.txt", "x")
    assert "zip archive, but no checkpoint" in refusal(path)


def test_a_tar_is_unknown(tmp_path, refusal):
    path = tmp_path / "model.pt"
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("x"), io.BytesIO(b""))
    assert "no checkpoint that redteam knows" in refusal(path)


def test_links_are_followed_and_dead_ones_named(saved, tmp_path, refusal):
    link = tmp_path / "link.pt"
    link.symlink_to(saved("m.pt"))
    assert identify(link) is Kind.TORCH
    dead = tmp_path / "dead.pt"
    dead.symlink_to(tmp_path / "gone")
    assert "link to" in refusal(dead)


def test_a_pipe_is_not_opened(tmp_path, refusal):
    path = tmp_path / "pipe.pt"
    os.mkfifo(path)
    assert "not a regular file" in refusal(path)


def test_a_device_is_not_opened(tmp_path, refusal):
    link = tmp_path / "zero.pt"
    link.symlink_to("/dev/zero")
    assert "not a regular file" in refusal(link)


def test_directories_without_what_is_needed(tmp_path, refusal, described, module):
    bare = tmp_path / "bare"
    bare.mkdir()
    assert "without config.json" in refusal(bare)
    assert "no weights" in refusal(described)
    save_file({"w": torch.zeros(2)}, described / "pytorch_model.bin")
    assert "is not what torch.save writes" in refusal(described)
    torch.save(module, described / "pytorch_model.bin")
    assert "not a state dict" in refusal(described)


def test_an_adapter_is_told_by_its_config(saved, refusal):
    """Whatever else lies beside it."""
    folder = saved("m")
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "someone/model"}')
    assert "has an adapter_config.json but no adapter_model.safetensors" in refusal(folder)
    (folder / "adapter_model.bin").write_bytes(b"PK\x03\x04 and then nothing of a zip")
    assert "truncated or damaged zip" in refusal(folder)
    shutil.copy(folder / "model.safetensors", folder / "adapter_model.bin")
    assert "is not what torch.save writes" in refusal(folder)
    torch.save({"w": torch.zeros(2)}, folder / "adapter_model.bin")
    assert identify(folder) is Kind.ADAPTER
    shutil.copy(folder / "model.safetensors", folder / "adapter_model.safetensors")
    assert identify(folder) is Kind.ADAPTER
    assert "is a PEFT adapter" in refusal(folder)
    (folder / "adapter_model.safetensors").write_bytes(b"")
    assert "is truncated" in refusal(folder)


def test_a_directory_whose_weights_have_another_name(saved, refusal):
    folder = saved("m")
    (folder / "model.safetensors").rename(folder / "best.safetensors")
    message = refusal(folder)
    assert "best.safetensors" in message
    assert "Give that file itself" in message


@pytest.mark.parametrize("named", ["../outside.safetensors", "model-1.bin", "sub/x.safetensors"])
def test_an_index_names_only_its_own_shards(saved, refusal, named):
    folder = saved("m")
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": named}}))
    assert "no .safetensors file in that directory" in refusal(folder)


def test_an_index_with_a_missing_shard_or_no_sense(saved, refusal):
    folder = saved("m")
    (folder / "model.safetensors").unlink()
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "model-00001-of-00001.safetensors"}}))
    assert "is missing, but the index names it" in refusal(folder)
    index.write_text('{"weight_map": 3}')
    assert "not a readable index" in refusal(folder)
    index.write_text('{"weight_map": {}}')
    assert "names no weights" in refusal(folder)


@pytest.mark.parametrize("share", [0.01, 0.3, 0.6, 0.99])
@pytest.mark.parametrize("name", ["m.safetensors", "m"])
def test_truncated_safetensors(saved, refusal, name, share):
    path = saved(name)
    weights = path / "model.safetensors" if path.is_dir() else path
    whole = weights.read_bytes()
    weights.write_bytes(whole[: int(len(whole) * share)])
    assert "is truncated" in refusal(path)


def test_malformed_safetensors_headers(tmp_path, refusal, described):
    path = described / "m.safetensors"

    def with_header(text: bytes, data: bytes = b"") -> str:
        path.write_bytes(len(text).to_bytes(8, "little") + text + data)
        return refusal(path)

    assert "malformed" in with_header(b"{not json")
    assert "malformed" in with_header(b'{"a": {"dtype": "F32"}}')
    assert "malformed" in with_header(b'{"a": {"dtype": "F32", "shape": [9], "data_offsets": [0, 4]}}', bytes(4))
    assert "malformed" in with_header(b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}', bytes(9))
    path.write_bytes((2**39).to_bytes(8, "little") + b"{}")
    assert "malformed" in refusal(path)


def test_quantised_safetensors(described, refusal):
    path = described / "m.safetensors"
    save_file({"w": torch.ones(4, dtype=torch.int8)}, path)
    assert "no floating-point weights" in refusal(path)
    save_file({"w": torch.ones(4), "v": torch.ones(9).to(torch.float8_e4m3fn)}, path)
    assert "stored as float8_e4m3fn" in refusal(path)


def test_control_characters_of_a_name_do_not_reach_the_terminal(tmp_path, refusal, module, tokenizer):
    path = tmp_path / "a\x1b[31m\nb.pt"
    save_checkpoint(path, module, tokenizer)
    assert identify(path) is Kind.TORCH
    path.write_bytes(b"")
    assert "\x1b" not in refusal(path)


# Found by the fuzzer.


@pytest.mark.parametrize("offset", ["1e999", "NaN", "9" * 4300, "9" * 4000])
def test_offsets_that_no_file_has(described, refusal, offset):
    path = described / "m.safetensors"
    text = b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, %s]}}' % offset.encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(4))
    assert "header" in refusal(path)


def test_what_the_library_quotes_is_cut_short(described, refusal):
    path = described / "m.safetensors"
    text = json.dumps({"a": {"dtype": "F" * 9000, "shape": [1], "data_offsets": [0, 4]}}).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(4))
    assert "malformed" in refusal(path)


@pytest.mark.parametrize("content", [b"[]," * 2_000_000, b'"ab",' * 1_000_000, b'{"a":' * 200_000])
def test_a_header_of_many_small_parts(described, refusal, content):
    """Of three bytes each, and eighty in memory."""
    path = described / "m.safetensors"
    text = b'{"__metadata__": [' + content + b"0]}"
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    tracemalloc.start()
    try:
        assert "malformed" in refusal(path)
        assert tracemalloc.get_traced_memory()[1] < 3 * len(text) + 2**23
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("dtype", "shape", "size"), [("F6_E2M3", [4], 3), ("F32", [0, 2**63], 0)], ids=["unknown", "too large"]
)
def test_tensors_that_the_format_has_and_torch_has_not(described, refusal, dtype, shape, size):
    path = described / "m.safetensors"
    header = {"a": {"dtype": dtype, "shape": shape, "data_offsets": [0, size]}}
    header["b"] = {"dtype": "F32", "shape": [1], "data_offsets": [size, size + 4]}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(size + 4))
    assert identify(path) is Kind.SAFETENSORS
    assert "tensors that torch cannot hold" in refusal(path)


@pytest.mark.parametrize("name", ["x" * 300, "x" * 100_000, "../" * 1000, "\ud800", "a\0", 10**4000, [[["x"]]]])
def test_names_of_shards_that_no_file_has(saved, refusal, name):
    folder = saved("m")
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"w": name if isinstance(name, list) else f"{name}.safetensors"}})
    )
    refusal(folder)
