"""Text classifiers of transformers, written by transformers itself."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from run_redteam import redteam
from tiny_texts import CLASSES, OWN, save_text_model, text_rows, text_tokenizer, tiny_text_model
from torch import nn

from redteam.checkpoints.digest import description_digest
from redteam.checkpoints.inspect import inspect_checkpoint
from redteam.checkpoints.load import open_target
from redteam.checkpoints.text_config import KINDS
from redteam.engine.batches import PADDING

TEXTS = [row["comment"] for row in text_rows(12)]


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., tuple[Path, nn.Module]]:
    def write(kind: str = "bert", template: str = "<s> $A </s>", changes: Any = None, **how: Any) -> Any:
        module = tiny_text_model(kind, **(changes or {}))
        return save_text_model(tmp_path / kind, module, template, **how), module

    return write


def padded(template: str = "<s> $A </s>") -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Texts as the model here takes them, and as transformers does."""
    given = dict(text_tokenizer(template)(TEXTS, padding=True, return_tensors="pt", return_token_type_ids=False))
    assert not given["attention_mask"].all()
    return given["input_ids"].masked_fill(given["attention_mask"] == 0, PADDING), given


def changed(path: Path, **changes: Any) -> None:
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, **changes}))


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_a_directory_says_what_its_model_says(kind: str, written) -> None:
    path, module = written(kind)
    target = open_target(path)
    tokens, given = padded()
    said = target.module(tokens)
    assert torch.equal(said, module(**given).logits)
    assert target.tokenizer is None
    assert target.reader is not None
    assert target.reader.classes == CLASSES
    assert (target.info.kind, target.info.architecture) == ("classifier", kind)
    assert (target.info.layers, target.info.hidden_size) == (2, 16)
    assert not target.module.training
    assert said.std(dim=0).min() > 0.01  # texts make a difference, or the test below says nothing


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("template", ["<s> $A </s>", "$A"])
def test_padding_changes_nothing(kind: str, template: str, written) -> None:
    path, module = written(kind, template)
    together = open_target(path).module(padded(template)[0])
    for text, said in zip(TEXTS, together, strict=True):
        given = text_tokenizer(template)(text, return_tensors="pt", return_token_type_ids=False)
        alone = module(input_ids=given["input_ids"]).logits[0]
        assert torch.allclose(alone, said, atol=1e-5), text
    assert OWN.keys() <= set(KINDS)


@torch.no_grad()
def test_shards_half_precision_and_bin(written) -> None:
    path, module = written("llama", max_shard_size="5KB")
    assert len(list(path.glob("*.safetensors"))) > 1
    tokens, given = padded()
    said = module(**given).logits
    assert torch.equal(open_target(path).module(tokens), said)
    torch.save(module.state_dict(), path / "pytorch_model.bin")
    for file in path.glob("*.safetensors*"):
        file.unlink()
    assert torch.equal(open_target(path).module(tokens), said)
    save_text_model(path.with_name("half"), module.bfloat16())
    assert open_target(path.with_name("half")).stored_dtype == "bfloat16"


@torch.no_grad()
def test_weights_alone_with_their_config(written, tmp_path: Path) -> None:
    path, module = written()
    (tmp_path / "alone").mkdir()
    shutil.copy(path / "model.safetensors", tmp_path / "alone" / "w.safetensors")
    tokens, given = padded()
    opened = open_target(tmp_path / "alone" / "w.safetensors", config=path)
    assert torch.equal(opened.module(tokens), module(**given).logits)


def test_opening_leaves_the_random_generator(written) -> None:
    path, _ = written()
    state = torch.get_rng_state()
    open_target(path)
    assert torch.equal(torch.get_rng_state(), state)


def test_it_is_inspected_as_a_classifier_of_text(written) -> None:
    path, _ = written()
    found = inspect_checkpoint(path)
    assert (found.language, found.text) == (False, True)
    wanted = "bert, a classifier of text: layers 2, hidden size 16, vocabulary 64, classes 4"
    assert found.architecture == wanted
    assert found.tokenizer == str(path / "tokenizer.json")
    assert len(found.missing) == 1  # what was removed
    shown = redteam("inspect", path)
    assert shown.returncode == 0
    assert wanted in " ".join(shown.stdout.split())


def test_inspecting_takes_no_torch(written) -> None:
    path, _ = written()
    program = (
        "import sys; from pathlib import Path; from redteam.checkpoints.inspect import inspect_checkpoint\n"
        f"print(inspect_checkpoint(Path({str(path)!r})).text, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False"]


def test_what_would_not_be_opened_is_said_by_inspect(written) -> None:
    path, _ = written()
    changed(path, problem_type="regression")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (path / name).unlink()
    lacks = [found for found, _ in inspect_checkpoint(path).missing]
    assert any("there is no tokenizer in" in lack for lack in lacks)
    assert any("of a classifier for 'regression'" in lack for lack in lacks)


def test_another_tokenizer_is_another_model(written) -> None:
    path, _ = written()
    before = description_digest(path)
    text_tokenizer("$A").save_pretrained(path)
    assert description_digest(path) != before


NAMES = {str(number): name for number, name in enumerate("abc")}


@pytest.mark.parametrize(
    ("kind", "changes", "says"),
    [
        ("bert", {"id2label": {"0": "score"}, "label2id": {"score": 0}}, "has one label: it predicts a number"),
        ("bert", {"problem_type": "regression"}, "of a classifier for 'regression'"),
        ("bert", {"problem_type": "multi_label_classification"}, "of a classifier for 'multi_label_classification'"),
        ("bert", {"problem_type": ["single_label_classification"]}, "of a classifier for"),
        (
            "llama",
            {"pad_token_id": None},
            "names no padding token (pad_token_id is None). Set pad_token_id in its config",
        ),
        ("gpt2", {"pad_token_id": None}, "the tokenizer suggests 1"),
        ("gpt2", {"pad_token_id": -1}, "names no padding token (pad_token_id is -1)"),
        ("gpt2", {"pad_token_id": 64}, "names no padding token (pad_token_id is 64)"),
        ("bert", {"model_type": "xlnet"}, "text classifier of model_type 'xlnet'"),
        ("bert", {"model_type": None}, "text classifier of model_type 'None'"),
        ("bert", {"model_type": ["bert"]}, "text classifier of model_type"),
        ("bert", {"auto_map": {"AutoModel": "evil.py"}}, "auto_map"),
        ("bert", {"num_hidden_layers": 10**9}, "1000000000 layers"),
        ("bert", {"num_hidden_layers": 1}, "unexpected: bert."),
        ("bert", {"num_hidden_layers": 3}, "missing: bert."),
        ("bert", {"id2label": NAMES}, "shape of classifier.bias: file (4,), wanted (3,)"),
        ("bert", {"id2label": {}}, "sizes that are not positive numbers"),
        ("bert", {"id2label": {"first": "a", "second": "b"}}, "no usable config"),
        ("gpt2", {"architectures": ["GPT2LMHeadModel"]}, "unexpected: score.weight"),
        ("llama", {"max_position_embeddings": 2}, "has 2 positions, too few for a text"),
    ],
)
def test_a_config_of_another_model_is_refused(kind: str, changes: dict[str, Any], says: str, written, refusal) -> None:
    path, _ = written(kind)
    changed(path, **changes)
    assert says in refusal(path)


def test_there_is_no_reading_without_a_tokenizer(written, refusal) -> None:
    path, _ = written()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (path / name).unlink()
    assert "there is no tokenizer in" in refusal(path)


def test_weights_that_are_not_finite(written, refusal) -> None:
    path, module = written()
    with torch.no_grad():
        module.classifier.bias[0] = torch.nan
    save_text_model(path, module)
    assert "NaN" in refusal(path)
