"""Hugging Face directories from before safetensors: what torch.save wrote, opened by the same checks as such a file."""

from __future__ import annotations

import hashlib
import json

import pytest
import torch

from redteam.checkpoints.inspect import inspect_checkpoint
from redteam.checkpoints.load import open_target

LEGACY = {"zip": {}, "legacy": {"_use_new_zipfile_serialization": False}}


def sharded(state, folder, **how) -> None:
    names = sorted(state)
    weight_map = {name: f"pytorch_model-{1 + i % 2:05d}-of-00002.bin" for i, name in enumerate(names)}
    for file in set(weight_map.values()):
        torch.save({name: state[name].clone() for name in names if weight_map[name] == file}, folder / file, **how)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))


@pytest.mark.parametrize("how", LEGACY.values(), ids=LEGACY)
@pytest.mark.parametrize("parts", [1, 2])
def test_they_open_as_the_same_model(parts, how, module, described, logits):
    if parts == 1:
        torch.save(module.state_dict(), described / "pytorch_model.bin", **how)
    else:
        sharded(module.state_dict(), described, **how)
    target = open_target(described)
    assert torch.equal(logits(target.module), logits(module))
    found = inspect_checkpoint(described)
    assert found.files == parts
    assert found.sha256 == target.sha256
    assert found.tensors.keys() == module.state_dict().keys()


def test_the_digest_is_of_all_parts(module, described):
    sharded(module.state_dict(), described)
    before = open_target(described).sha256
    files = sorted(described.glob("*.bin"))
    lines = "".join(f"{file.name} {hashlib.sha256(file.read_bytes()).hexdigest()}\n" for file in files)
    assert before == hashlib.sha256(lines.encode()).hexdigest()
    changed = torch.load(files[1])
    next(iter(changed.values())).add_(1)
    torch.save(changed, files[1])
    assert open_target(described).sha256 != before


def test_safetensors_beside_them_are_preferred(make, module, described, logits):
    torch.save(make(seed=1).state_dict(), described / "pytorch_model.bin")
    module.save_pretrained(described)
    target = open_target(described)
    assert torch.equal(logits(target.module), logits(module))
    assert inspect_checkpoint(described).sha256 == target.sha256


def test_weights_that_are_tied_may_be_stored_once_or_twice(make, described, logits):
    tied = make(tie_word_embeddings=True)
    tied.config.save_pretrained(described)
    for left_out in ((), ("lm_head.weight",)):
        state = {name: value for name, value in tied.state_dict().items() if name not in left_out}
        torch.save(state, described / "pytorch_model.bin")
        assert torch.equal(logits(open_target(described).module), logits(tied))


def test_an_index_cannot_name_another_place(described, refusal):
    (described / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": {"w": "../other.bin"}}))
    assert "no .bin file in that directory" in refusal(described)


def test_a_part_that_is_missing_is_named(module, described, refusal):
    sharded(module.state_dict(), described)
    (described / "pytorch_model-00002-of-00002.bin").unlink()
    assert "pytorch_model-00002-of-00002.bin is missing" in refusal(described)
