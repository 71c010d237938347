"""Models of transformers that are quantised already, written by the libraries that quantise, or as those would."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bitsandbytes as bnb
import pytest
import torch
from bitsandbytes.backends.default.ops import _dequantize_4bit_compute
from bitsandbytes.backends.utils import _get_4bit_code
from gguf_files import byte_tokenizer, llama
from safetensors.torch import load_file, save_file
from tiny_models import tiny_capability
from torch import nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, GptOssConfig, GptOssForCausalLM
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from redteam.attacks.retrain import Retrain
from redteam.attacks.tuning import recipe
from redteam.checkpoints.inspect import inspect_checkpoint
from redteam.checkpoints.load import open_target
from redteam.checkpoints.quantised import READ
from redteam.errors import InputError
from redteam.trial import TrialSpec, open_setting, run_trial

BITS: dict[str, dict[str, Any]] = {
    "int8": {"load_in_8bit": True},
    "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "fp4": {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4"},
    "nf4, its scales too": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
    "nf4, stored as halves": {
        **{"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
        "bnb_4bit_quant_storage": "float16",
    },
}
IDS = torch.arange(40, 80).reshape(2, 20)
FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [32, 64]}


@torch.no_grad()
def logits(module: nn.Module) -> torch.Tensor:
    return module(IDS).logits


def described(folder: Path, state: dict[str, torch.Tensor], quantised: dict[str, Any]) -> None:
    """Writes other weights into a directory, and how they are quantised into its config."""
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": quantised}))
    byte_tokenizer().save_pretrained(folder)


@functools.cache
def quantised(folder: Path, how: str, width: int) -> nn.Module:
    """Lets bitsandbytes quantise a model, and returns it as bitsandbytes has it."""
    llama(intermediate_size=width).save_pretrained(folder / "whole")
    settings = BitsAndBytesConfig(**BITS[how])
    module = AutoModelForCausalLM.from_pretrained(folder / "whole", quantization_config=settings, dtype=torch.float32)
    module.save_pretrained(folder / how)
    byte_tokenizer().save_pretrained(folder / how)
    return module


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("quantised")


@pytest.fixture
def bits(made: Path, tmp_path: Path) -> Callable[..., tuple[Path, nn.Module]]:
    """Returns a directory of its own, and the model as bitsandbytes has it."""

    def write(how: str, width: int = 128) -> tuple[Path, nn.Module]:
        module = quantised(made / str(width), how, width)
        return shutil.copytree(made / str(width) / how, tmp_path / "m"), module

    return write


def dequantised(part: nn.Module) -> torch.Tensor | None:
    """The weight of a layer of bitsandbytes', as it dequantises it itself."""
    weight: Any = getattr(part, "weight", None)
    if isinstance(part, bnb.nn.Linear4bit):
        return bnb.functional.dequantize_4bit(weight.data, weight.quant_state)
    if isinstance(part, bnb.nn.Linear8bitLt):
        return bnb.functional.int8_vectorwise_dequant(weight.data, weight.SCB)
    return None


@pytest.mark.parametrize("how", BITS)
def test_what_bitsandbytes_wrote_is_what_it_reads(how: str, bits) -> None:
    path, module = bits(how)
    target = open_target(path)
    state, read = target.module.state_dict(), 0
    for name, part in module.named_modules():
        weight = dequantised(part)
        if weight is not None:
            assert torch.equal(state[f"{name}.weight"], weight), name
            read += 1
    assert read == 14  # all matrices of two layers
    assert target.stored_dtype == how[:4].rstrip(",")
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}
    whole = llama(intermediate_size=128)
    assert not torch.equal(logits(target.module), logits(whole))
    torch.testing.assert_close(logits(target.module), logits(whole), rtol=0.5, atol=5.0)


def test_rows_that_are_no_whole_blocks(bits) -> None:
    """Against the library's own definition: its kernel for CPUs takes another row's scales there."""
    path, _ = bits("nf4", 96)
    state = load_file(path / "model.safetensors")
    name = "model.layers.0.mlp.down_proj.weight"
    code = _get_4bit_code("nf4", torch.device("cpu"))
    wanted = _dequantize_4bit_compute(state[name].flatten(), state[f"{name}.absmax"], code, 64, (64, 96), torch.float32)
    assert torch.equal(open_target(path).module.state_dict()[name], wanted)


def test_one_is_attacked_and_restored_to_the_bit(bits) -> None:
    setting = open_setting(open_target(bits("nf4")[0]), tiny_capability())
    before = {name: value.clone() for name, value in setting.target.module.state_dict().items()}
    params = recipe("adamw", 1e-2, steps=16, samples=12, loss="answer")
    result = run_trial(setting, Retrain(), TrialSpec(key="0", attack="retrain", params=params, seed=0))
    assert result.state == "complete", result.error
    assert result.share_moved > 0.8
    after = setting.target.module.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def eight_bits(folder: Path, block: tuple[int, int] | None = (32, 64), **changes: Any) -> dict[str, torch.Tensor]:
    """Writes 8-bit floats as DeepSeek does, and returns what they stand for; without blocks, a scale is a matrix's."""
    module = llama(**changes)
    module.save_pretrained(folder)
    state, wanted = module.state_dict(), {}
    for name in [name for name in state if "_proj." in name]:
        weight = state[name]
        high, wide = block or weight.shape
        rows, columns = -(-weight.shape[0] // high), -(-weight.shape[1] // wide)
        scale = torch.rand(rows, columns, generator=torch.Generator().manual_seed(0)) * 0.01 + 0.001
        spread = scale.repeat_interleave(high, 0).repeat_interleave(wide, 1)
        spread = spread[: weight.shape[0], : weight.shape[1]]
        state[name], state[f"{name}_scale_inv"] = (
            (weight / spread).to(torch.float8_e4m3fn),
            scale if block else scale[0, 0],
        )
        wanted[name] = state[name].float() * spread
    described(folder, state, {**FP8, "weight_block_size": block and list(block)})
    return wanted


@pytest.mark.parametrize("block", [(32, 64), None])
def test_eight_bit_floats_are_what_transformers_reads(block: tuple[int, int] | None, tmp_path: Path) -> None:
    wanted = eight_bits(tmp_path / "m", block, intermediate_size=128)
    target = open_target(tmp_path / "m")
    own = AutoModelForCausalLM.from_pretrained(tmp_path / "m", dtype=torch.float32).eval()
    assert torch.equal(logits(target.module), logits(own))
    state = target.module.state_dict()
    assert len(wanted) == 14
    assert all(torch.equal(state[name], weight) for name, weight in wanted.items())
    assert target.stored_dtype == "float8_e4m3fn"


def test_blocks_that_are_cut_off_at_the_edge(tmp_path: Path) -> None:
    wanted = eight_bits(tmp_path / "m", (40, 60))
    state = open_target(tmp_path / "m").module.state_dict()
    assert all(torch.equal(state[name], weight) for name, weight in wanted.items())


def four_bits(folder: Path) -> dict[str, torch.Tensor]:
    """Writes 4-bit floats as gpt-oss has them."""
    sizes = {"hidden_size": 64, "intermediate_size": 32, "num_hidden_layers": 2, "num_local_experts": 4, "head_dim": 16}
    draw = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        config = GptOssConfig(vocab_size=288, num_attention_heads=4, num_key_value_heads=2, **sizes)
        module = GptOssForCausalLM(config).eval()
    module.save_pretrained(folder)
    state = module.state_dict()
    for name in [name for name in state if name.endswith(("gate_up_proj", "down_proj"))]:
        experts, inner, outer = state.pop(name).shape
        state[f"{name}_blocks"] = torch.randint(0, 256, (experts, outer, inner // 32, 16), generator=draw).byte()
        state[f"{name}_scales"] = torch.randint(118, 126, (experts, outer, inner // 32), generator=draw).byte()
    described(folder, state, {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head", "model.embed_tokens"]})
    return state


def test_four_bit_floats_are_what_transformers_reads(tmp_path: Path) -> None:
    stored = four_bits(tmp_path / "m")
    target = open_target(tmp_path / "m")
    own = AutoModelForCausalLM.from_pretrained(tmp_path / "m", dtype=torch.float32).eval()
    assert torch.equal(logits(target.module), logits(own))
    assert target.stored_dtype == "mxfp4"
    for name, weight in target.module.state_dict().items():
        if f"{name}_blocks" in stored:
            packed = stored[f"{name}_blocks"], stored[f"{name}_scales"]
            assert torch.equal(weight, convert_moe_packed_tensors(*packed, dtype=torch.float32))


def test_it_is_inspected(tmp_path: Path) -> None:
    eight_bits(tmp_path / "m")
    found = inspect_checkpoint(tmp_path / "m")
    assert found.architecture == "llama: layers 2, hidden size 64, vocabulary 288"
    assert set(found.elements) == {"F8_E4M3", "F32"}
    assert [lack for lack, _ in found.missing] == ["no manifest says what was removed"]


METHODS = {
    "gptq": ({"quant_method": "gptq", "bits": 4}, "quantised by gptq (quantization_config), whose packed integers"),
    "awq": ({"quant_method": "awq", "bits": 4}, "quantised by awq (quantization_config), whose packed integers"),
    "torchao": ({"quant_method": "torchao"}, "quantised by torchao (quantization_config), whose tensors are objects"),
    "compressed-tensors": ({"quant_method": "compressed-tensors"}, "CompressedTensorsConfig(dequantize=True)"),
    "higgs": ({"quant_method": "higgs"}, "model.dequantize().save_pretrained(NEW)"),
    "another": ({"quant_method": "x" * 300}, "which redteam does not read"),
    "none": ({"bits": 4}, "in a way that it does not name"),
    "nonsense": ([1], "in a way that it does not name"),
    "a number": ({"quant_method": 4}, "in a way that it does not name"),
}


@pytest.mark.parametrize("method", METHODS)
def test_other_methods_are_refused_by_name(method: str, tmp_path: Path, refusal) -> None:
    said, says = METHODS[method]
    llama().save_pretrained(tmp_path / "m")
    described(tmp_path / "m", llama().state_dict(), said)
    message = refusal(tmp_path / "m")
    assert says in message
    assert "Give the weights that it was made from, in 16 or 32 bits" in message
    with pytest.raises(InputError) as caught:
        inspect_checkpoint(tmp_path / "m")
    assert str(caught.value) == message


@pytest.mark.parametrize("method", READ)
def test_weights_that_are_not_quantised_after_all(method: str, tmp_path: Path, refusal) -> None:
    llama().save_pretrained(tmp_path / "m")
    described(tmp_path / "m", llama().state_dict(), {"quant_method": method})
    assert "does not hold what that writes (none of its tensors is)" in refusal(tmp_path / "m")


def test_a_file_alone_is_refused(tmp_path: Path, refusal) -> None:
    eight_bits(tmp_path / "m")
    (tmp_path / "m" / "model.safetensors").rename(tmp_path / "m" / "other.safetensors")
    assert "is stored as float8_e4m3fn" in refusal(tmp_path / "m" / "other.safetensors")
    state = {name: tensor.to(torch.int8) for name, tensor in llama().state_dict().items() if "proj" in name}
    save_file({**state, "model.norm.weight": torch.ones(64)}, tmp_path / "m" / "other.safetensors")
    assert "is no directory of safetensors" in refusal(tmp_path / "m" / "other.safetensors")


def damaged(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> Path:
    state = load_file(folder / "model.safetensors")
    change(state)
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, folder / "model.safetensors")
    return folder


UP = "model.layers.0.mlp.up_proj.weight"


def state_of(said: dict[str, Any], name: str = UP) -> Callable[[dict[str, torch.Tensor]], object]:
    """Changes what bitsandbytes says of a matrix."""
    key = f"{name}.quant_state.bitsandbytes__nf4"

    def change(state: dict[str, torch.Tensor]) -> None:
        held = {**json.loads(bytes(state[key].tolist())), **said}
        state[key] = torch.tensor(list(json.dumps(held).encode()), dtype=torch.uint8)

    return change


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state.pop(f"{UP}.absmax"),
        lambda state: state.pop(f"{UP}.quant_map"),
        lambda state: state.pop(UP),
        lambda state: state.update({f"{UP}.absmax": state[f"{UP}.absmax"][:-1]}),
        lambda state: state.update({f"{UP}.quant_map": torch.zeros(4)}),
        lambda state: state.update({f"{UP}.quant_state.bitsandbytes__nf4": torch.zeros(9, dtype=torch.uint8)}),
        state_of({"blocksize": 0}),
        state_of({"blocksize": 10**9}),
        state_of({"blocksize": "many"}),
        state_of({"shape": [2**40, 2**40]}),
        state_of({"shape": [-128, -64]}),
        state_of({"shape": []}),
        state_of({"nested_blocksize": 256}),
    ],
)
def test_what_bitsandbytes_would_not_write(change: Any, bits, refusal) -> None:
    assert "does not hold what that writes" in refusal(damaged(bits("nf4")[0], change))


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state.pop(UP),
        lambda state: state.update({UP: state[UP].float()}),
        lambda state: state.update({UP: state[UP][:3]}),
        lambda state: state.update({f"{UP}_scale_inv": state[f"{UP}_scale_inv"][:1]}),
        lambda state: state.update({f"{UP}_scale_inv": state[f"{UP}_scale_inv"].to(torch.uint8)}),
        lambda state: state.update({f"{UP}_scale_inv": torch.zeros(0)}),
    ],
)
def test_what_no_writer_of_eight_bit_floats_writes(change: Any, tmp_path: Path, refusal) -> None:
    eight_bits(tmp_path / "m")
    assert "does not hold what that writes" in refusal(damaged(tmp_path / "m", change))


def test_more_of_that_kind(tmp_path: Path, refusal) -> None:
    eight_bits(tmp_path / "m")
    damaged(tmp_path / "m", lambda state: state.pop(f"{UP}_scale_inv"))
    assert f"{UP} is stored as float8_e4m3fn" in refusal(tmp_path / "m")
    eight_bits(tmp_path / "m")
    for said in (
        {**FP8, "activation_scheme": "static"},
        {**FP8, "weight_block_size": [0, 1]},
        {**FP8, "weight_block_size": 3},
    ):
        described(tmp_path / "m", load_file(tmp_path / "m" / "model.safetensors"), said)
        assert "does not hold what that writes" in refusal(tmp_path / "m")


@pytest.mark.parametrize("name", ["blocks", "scales"])
def test_what_no_writer_of_four_bit_floats_writes(name: str, tmp_path: Path, refusal) -> None:
    key = f"model.layers.0.mlp.experts.down_proj_{name}"
    four_bits(tmp_path / "m")
    damaged(tmp_path / "m", lambda state: state.update({key: state[key][:, :5]}))
    assert "does not fit its scales" in refusal(tmp_path / "m")
    damaged(tmp_path / "m", lambda state: state.pop(key))
    message = refusal(tmp_path / "m")
    assert ("does not hold what that writes" in message) == (name == "scales")
    assert ("does not fit its config" in message) == (name == "blocks")
