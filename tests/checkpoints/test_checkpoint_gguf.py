"""GGUF files, written by the package gguf itself from models of transformers."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf_files import KINDS, byte_tokenizer, gpt2, llama, write_experts, write_gguf, write_pieces
from tiny_models import tiny_capability
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from redteam.attacks.retrain import Retrain
from redteam.attacks.tuning import recipe
from redteam.checkpoints.digest import weights_digest
from redteam.checkpoints.gguf_header import TYPES
from redteam.checkpoints.identify import Kind, identify
from redteam.checkpoints.inspect import inspect_checkpoint
from redteam.checkpoints.load import open_target
from redteam.setting import open_setting
from redteam.trial import TrialSpec, run_trial

MODELS = {"llama": llama, "gpt2": gpt2}
IDS = torch.arange(40, 80).reshape(2, 20)
SAID = "the lynx  sleeps\nin the réd <|endoftext|> oak"


@torch.no_grad()
def logits(module: nn.Module) -> torch.Tensor:
    return module(IDS).logits


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., Path]:
    def write(kind: str = "F32", model: str = "llama", **how: Any) -> Path:
        path = tmp_path / f"{model}-{kind}.gguf"
        write_gguf(path, MODELS[model](), how.pop("tokenizer", byte_tokenizer()), kind, **how)
        return path

    return write


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("model", MODELS)
def test_it_says_what_the_model_of_the_dequantised_weights_says(kind: str, model: str, tmp_path: Path) -> None:
    path, module, tokenizer = tmp_path / "m.gguf", MODELS[model](), byte_tokenizer()
    whole = logits(module)
    state = write_gguf(path, module, tokenizer, kind)
    target = open_target(path)
    module.load_state_dict(state)
    assert torch.equal(logits(target.module), logits(module))
    assert torch.equal(logits(target.module), whole) == (kind == "F32")
    assert target.stored_dtype == {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}.get(kind, kind)
    assert {parameter.dtype for parameter in target.module.parameters()} == {torch.float32}
    assert not target.module.training
    assert target.sha256 == weights_digest(path)
    assert target.tokenizer is not None
    assert target.tokenizer(SAID)["input_ids"] == tokenizer(SAID)["input_ids"]
    assert (target.tokenizer.eos_token, target.tokenizer.pad_token) == ("<|endoftext|>", "<|endoftext|>")


@pytest.mark.parametrize("kind", ["F32", "Q4_0"])
@pytest.mark.parametrize("model", MODELS)
def test_transformers_own_loader_says_the_same(kind: str, model: str, written) -> None:
    path = written(kind, model)
    target = open_target(path)
    own = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    assert torch.equal(logits(target.module), logits(own.eval()))
    assert type(target.module) is type(own)
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    assert target.tokenizer is not None
    assert tokenizer.backend_tokenizer.to_str() == target.tokenizer.backend_tokenizer.to_str()
    assert tokenizer.special_tokens_map == target.tokenizer.special_tokens_map


def test_a_mixture_of_experts(tmp_path: Path) -> None:
    """Two tensors of the file become one of the model."""
    path = tmp_path / "m.gguf"
    module = write_experts(path)
    own = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=path.name, dtype=torch.float32).eval()
    opened = open_target(path).module
    assert type(opened) is type(module)
    assert torch.equal(logits(opened), logits(own))
    state = opened.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in module.state_dict().items())


def test_tied_embeddings_are_one(written) -> None:
    path = written(tokenizer=byte_tokenizer())
    write_gguf(path, llama(tie_word_embeddings=True), byte_tokenizer())
    module: Any = open_target(path).module
    assert module.lm_head.weight is module.model.embed_tokens.weight
    assert torch.equal(logits(module), logits(llama(tie_word_embeddings=True)))


def test_the_types_are_those_of_the_library() -> None:
    """Each of them can be dequantised, and everything that can be is one of them."""
    draw = np.random.default_rng(0)
    readable = {"F32", "F16", *(kind.name for kind in gguf.quants._type_traits)}
    assert {name for name, _, _ in TYPES.values()} == readable
    for number, (name, elements, size) in TYPES.items():
        kind = gguf.GGMLQuantizationType(number)
        assert (kind.name, gguf.GGML_QUANT_SIZES[kind]) == (name, (elements, size))
        with np.errstate(all="ignore"):
            made = gguf.dequantize(draw.integers(0, 256, (3, 2 * size), np.uint8), kind)
        assert (made.shape, made.dtype) == ((3, 2 * elements), np.float32)


def test_the_frequencies_of_llama_3_are_stretched(tmp_path: Path) -> None:
    """llama.cpp's converter writes a tensor of factors for the parameters of the config, which it does not write."""
    stretched = llama(
        rope_parameters={
            **{"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0},
            **{"high_freq_factor": 4.0, "original_max_position_embeddings": 32},
        }
    )
    plain = llama()
    factors = (plain.model.rotary_emb.inv_freq / stretched.model.rotary_emb.inv_freq).numpy()
    assert factors.max() > 2
    path = tmp_path / "m.gguf"
    write_gguf(path, plain, byte_tokenizer(), extra={"rope_freqs.weight": factors})
    opened = logits(open_target(path).module)
    torch.testing.assert_close(opened, logits(stretched), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(opened, logits(plain), rtol=1e-2, atol=1e-2)
    stretched.config.save_pretrained(tmp_path / "given")
    byte_tokenizer().save_pretrained(tmp_path / "given")
    assert torch.equal(logits(open_target(path, config=tmp_path / "given").module), logits(stretched))


def test_frequencies_that_make_no_sense_are_refused(written, refusal) -> None:
    for factors in (np.ones(3, np.float32), np.zeros(8, np.float32), np.full(8, np.nan, np.float32)):
        assert "rope_freqs.weight do not fit" in refusal(written(extra={"rope_freqs.weight": factors}))


def test_a_config_may_be_given(written, tmp_path: Path, refusal) -> None:
    path = written("Q8_0")
    llama().config.save_pretrained(tmp_path / "given")
    byte_tokenizer().save_pretrained(tmp_path / "given")
    assert torch.equal(logits(open_target(path, config=tmp_path / "given").module), logits(open_target(path).module))
    llama(num_hidden_layers=1).config.save_pretrained(tmp_path / "given")
    assert "holds 9 tensors that transformers does not know in a llama model" in refusal(
        path, config=tmp_path / "given"
    )
    assert "there is no config" in refusal(path, config=tmp_path / "nowhere")


def test_what_lies_beside_it_is_not_looked_at(written) -> None:
    """transformers would follow an adapter to its base, and ask for the code that a tokenizer names."""
    path = written()
    (path.parent / "adapter_config.json").write_text('{"base_model_name_or_path": "nobody/nothing"}')
    (path.parent / "tokenizer_config.json").write_text('{"auto_map": {"AutoTokenizer": ["evil.T", null]}}')
    (path.parent / "config.json").write_text('{"model_type": "gpt2", "auto_map": {"AutoConfig": "evil.C"}}')
    assert torch.equal(logits(open_target(path).module), logits(llama()))


def test_it_is_attacked_and_restored_to_the_bit(written) -> None:
    setting = open_setting(open_target(written("Q8_0")), tiny_capability())
    before = {name: value.clone() for name, value in setting.target.module.state_dict().items()}
    params = recipe("adamw", 1e-2, steps=16, samples=12, loss="answer")
    result = run_trial(setting, Retrain(), TrialSpec(key="0", attack="retrain", params=params, seed=0))
    assert result.state == "complete", result.error
    assert result.share_moved > 0.8  # all but the rows of tokens that nothing says
    assert result.losses[-1] < result.losses[0]
    after = setting.target.module.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_it_is_inspected(written) -> None:
    path = written("Q8_0")
    found = inspect_checkpoint(path)
    assert identify(path) is Kind.GGUF
    assert found.form == "a GGUF file"
    assert found.architecture == "llama: layers 2, hidden size 64, vocabulary 288"
    assert (found.described_by, found.tokenizer) == ("in llama-Q8_0.gguf", "in llama-Q8_0.gguf")
    assert found.language
    assert list(found.elements) == ["Q8_0", "F32"]
    assert found.tensors["blk.0.ffn_up.weight"].shape == (96, 64)
    assert found.sha256 == weights_digest(path)
    assert [lack for lack, _ in found.missing] == ["no manifest says what was removed"]


def test_inspecting_one_imports_no_library_for_it(written) -> None:
    said = "import sys; from redteam.cli import app; app(['inspect', sys.argv[1]], standalone_mode=False);"
    said += "print(sorted({'torch', 'transformers', 'gguf', 'numpy'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", said, str(written())], capture_output=True, text=True, check=True)
    assert "a GGUF file" in done.stdout
    assert done.stdout.splitlines()[-1] in ("[]", "['numpy']")


def test_opening_one_writes_nothing_to_the_terminal(written, capfd) -> None:
    path = written("Q4_0", "gpt2")
    capfd.readouterr()
    open_target(path)
    assert capfd.readouterr() == ("", "")


def test_without_the_package_it_is_said_what_to_install(written, refusal, monkeypatch) -> None:
    path = written()
    monkeypatch.setattr("redteam.checkpoints.gguf_header.find_spec", lambda name: None)
    assert refusal(path).endswith(
        "the package gguf is not installed. Install it: pip install 'unlearning-redteam[gguf]'"
    )
    lacks = dict(inspect_checkpoint(path).missing)
    assert lacks["the package gguf is not installed"] == "Install it: pip install 'unlearning-redteam[gguf]'"


def test_a_tokenizer_of_sentencepiece(tmp_path: Path, refusal) -> None:
    path = tmp_path / "m.gguf"
    write_pieces(path, llama())
    tokenizer = open_target(path).tokenizer
    own = AutoTokenizer.from_pretrained(tmp_path, gguf_file=path.name)
    assert tokenizer is not None
    assert tokenizer("the lynx é")["input_ids"] == own("the lynx é")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(tokenizer("the lynx")["input_ids"]) == ["<s>", "▁the", "▁lynx"]
    write_pieces(path, llama(), add_space_prefix=False)
    assert own("the")["input_ids"] == AutoTokenizer.from_pretrained(tmp_path, gguf_file=path.name)("the")["input_ids"]
    assert "has a tokenizer that puts no space first" in refusal(path)  # which transformers did just then


def test_a_tokenizer_that_transformers_would_read_as_another(written, tmp_path: Path, refusal) -> None:
    path = written(divides="smollm")
    assert "divides text as 'smollm' does, which transformers does not know" in refusal(path)
    llama().config.save_pretrained(tmp_path / "given")
    byte_tokenizer().save_pretrained(tmp_path / "given")
    assert torch.equal(logits(open_target(path, config=tmp_path / "given").module), logits(llama()))
    assert open_target(written(divides="llama-bpe")).tokenizer is not None


def test_a_tokenizer_may_lie_beside_it(written, refusal) -> None:
    path = written(tokenizer=None)
    assert "there is no tokenizer in" in refusal(path)
    byte_tokenizer().save_pretrained(path.parent)
    target = open_target(path)
    assert target.tokenizer is not None
    assert target.tokenizer(SAID)["input_ids"] == byte_tokenizer()(SAID)["input_ids"]


@pytest.mark.parametrize("architecture", ["clip", "bert", "no-such-model"])
def test_an_architecture_that_transformers_does_not_map_is_refused(architecture: str, written, refusal) -> None:
    said = refusal(written(architecture=architecture))
    assert f"architecture {architecture} is not supported yet" in said
    assert said.endswith("Give the Hugging Face directory that it was converted from")


def test_weights_are_never_made_up_nor_left_out(written, refusal) -> None:
    without = written(without=("blk.1.ffn_up.weight",))
    assert "does not fit its config: missing: model.layers.1.mlp.up_proj.weight" in refusal(without)
    more = written(extra={"blk.0.attn_q.bias": np.ones(64, np.float32), "sharp.weight": np.ones(3, np.float32)})
    assert "holds 2 tensors that transformers does not know in a llama model: blk.0.attn_q.bias" in refusal(more)
    longer = written(extra={"blk.2.attn_norm.weight": np.ones(64, np.float32)})
    assert "does not know in a llama model: blk.2.attn_norm.weight" in refusal(longer)


@pytest.mark.parametrize(
    "says", [{"rope.scaling.type": "yarn"}, {"rope.scaling.factor": 4.0}, {"logit_scale": 0.5}, {"expert_count": 2.0}]
)
def test_metadata_that_transformers_leaves_out_is_refused(
    says: dict[str, Any], written, tmp_path: Path, refusal
) -> None:
    """It would say something else than the model, without a word."""
    (key,) = says
    path = written(says=says)
    assert f"says llama.{key}, which transformers does not read there. Give the model's config.json" in refusal(path)
    llama().config.save_pretrained(tmp_path / "given")
    byte_tokenizer().save_pretrained(tmp_path / "given")
    assert torch.equal(logits(open_target(path, config=tmp_path / "given").module), logits(llama()))


def test_metadata_that_says_nothing_new_is_not(written) -> None:
    path = written(says={"rope.scaling.type": "none", "rope.scaling.factor": 1.0, "attention.value_length": 16.0})
    assert torch.equal(logits(open_target(path).module), logits(llama()))


def test_nan_is_refused(written, refusal) -> None:
    path = written()
    content = bytearray(path.read_bytes())
    content[-4:] = np.float32("nan").tobytes()
    path.write_bytes(content)
    assert "holds NaN or infinite weights" in refusal(path)


def test_it_is_no_classifier_of_ones_own(written, refusal) -> None:
    assert "Leave --arch out" in refusal(written(), arch="mine.py:make")


def test_a_directory_of_one_is_not_guessed_at(written, refusal) -> None:
    assert "but llama-F32.gguf. Give that file itself" in refusal(written().parent)
