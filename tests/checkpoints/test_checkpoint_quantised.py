"""Models of transformers that are quantised already, written by the libraries that quantise, or as those would."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf_files import byte_tokenizer, llama
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_models import tiny_capability
from torch import nn
from transformers import AutoModelForCausalLM, GptOssConfig, GptOssForCausalLM
from transformers.integrations.mxfp4 import convert_moe_packed_tensors
from write_bitsandbytes import BITS, HELD, digest, quantise, width

from redteam.attacks.retrain import Retrain
from redteam.attacks.tuning import recipe
from redteam.checkpoints.inspect import inspect_checkpoint
from redteam.checkpoints.load import open_target
from redteam.checkpoints.quantised import READ
from redteam.errors import InputError
from redteam.setting import open_setting
from redteam.trial import TrialSpec, run_trial

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


@pytest.fixture
def bits(tmp_path: Path) -> Callable[[str], tuple[Path, dict[str, str]]]:
    """Returns a directory with matrices that bitsandbytes wrote, and the digests of what it reads in them, by name."""

    def write(how: str) -> tuple[Path, dict[str, str]]:
        module = llama(num_hidden_layers=1, intermediate_size=width(how))
        module.save_pretrained(tmp_path / "m")
        state = {name: tensor for name, tensor in module.state_dict().items() if "_proj." not in name}
        with safe_open(HELD, framework="pt") as opened:
            said = {name: value for name, value in opened.metadata().items() if name.startswith(f"{how}: ")}
            names = [name for name in opened.keys() if name.startswith(f"{how}: ")]  # noqa: SIM118 - no mapping
            state |= {name.removeprefix(f"{how}: "): opened.get_tensor(name) for name in names}
        described(tmp_path / "m", state, {"quant_method": "bitsandbytes", **BITS[how]})
        return tmp_path / "m", {name.removeprefix(f"{how}: "): value for name, value in said.items()}

    return write


@pytest.mark.parametrize("how", BITS)
def test_what_bitsandbytes_wrote_is_what_it_reads(how: str, bits) -> None:
    path, said = bits(how)
    target = open_target(path)
    state = target.module.state_dict()
    assert len(said) == 7  # all matrices of a layer
    assert {name: digest(state[name]) for name in said} == said
    assert target.stored_dtype == how[:4].rstrip(",")
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}
    whole = llama(num_hidden_layers=1, intermediate_size=width(how)).state_dict()
    for name in said:
        assert 0 < (state[name] - whole[name]).abs().max() < 0.25 * whole[name].abs().max()


@pytest.mark.parametrize("how", BITS)
def test_what_bitsandbytes_writes_today(how: str, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    said = quantise(how, tmp_path)
    byte_tokenizer().save_pretrained(tmp_path / "quantised")
    state = open_target(tmp_path / "quantised").module.state_dict()
    assert len(said) == 7
    assert all(torch.equal(state[name], weight) for name, weight in said.items())


def test_one_is_attacked_and_restored_to_the_bit(bits) -> None:
    setting = open_setting(open_target(bits("nf4")[0]), tiny_capability())
    before = {name: value.clone() for name, value in setting.target.module.state_dict().items()}
    params = recipe("adamw", 1e-2, steps=16, samples=12, loss="answer")
    result = run_trial(setting, Retrain(), TrialSpec(key="0", attack="retrain", params=params, seed=0))
    assert result.state == "complete", result.error
    assert result.share_moved > 0.5  # all but the rows of tokens that nothing says
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
