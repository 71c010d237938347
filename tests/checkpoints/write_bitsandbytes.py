"""Writes `bitsandbytes.safetensors`: matrices of a tiny Llama as bitsandbytes quantises them, and what it reads there.

bitsandbytes is no part of the environment of the tests: peft imports it where it is, and it is large. Run where it is
installed, from the root of the repository:

    PYTHONPATH=tests python tests/checkpoints/write_bitsandbytes.py
"""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path
from typing import Any

import torch
from gguf_files import llama
from safetensors.torch import load_file, save_file

HELD = Path(__file__).with_name("bitsandbytes.safetensors")
NF4: dict[str, Any] = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
BITS: dict[str, dict[str, Any]] = {
    "int8": {"load_in_8bit": True},
    "nf4": NF4,
    "fp4": {**NF4, "bnb_4bit_quant_type": "fp4"},
    "nf4, its scales too": {**NF4, "bnb_4bit_use_double_quant": True},
    "nf4, stored as halves": {**NF4, "bnb_4bit_quant_storage": "float16"},
    "nf4, rows of no whole blocks": NF4,
}


def width(how: str) -> int:
    """The inner width of the model that is quantised so."""
    return 96 if "rows" in how else 64


def digest(weight: torch.Tensor) -> str:
    return hashlib.sha256(weight.contiguous().numpy().tobytes()).hexdigest()


def quantise(how: str, folder: Path) -> dict[str, torch.Tensor]:
    """Lets bitsandbytes quantise and write a model, and returns its matrices as bitsandbytes dequantises them."""
    import bitsandbytes as bnb
    from bitsandbytes.backends.default.ops import _dequantize_4bit_compute
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    llama(num_hidden_layers=1, intermediate_size=width(how)).save_pretrained(folder / "whole")
    settings = BitsAndBytesConfig(**BITS[how])
    module = AutoModelForCausalLM.from_pretrained(folder / "whole", quantization_config=settings, dtype=torch.float32)
    module.save_pretrained(folder / "quantised")
    found = {}
    for name, part in module.named_modules():
        weight: Any = getattr(part, "weight", None)
        if isinstance(part, bnb.nn.Linear8bitLt):
            found[f"{name}.weight"] = bnb.functional.int8_vectorwise_dequant(weight.data, weight.SCB)
        elif isinstance(part, bnb.nn.Linear4bit) and "rows" not in how:
            found[f"{name}.weight"] = bnb.functional.dequantize_4bit(weight.data, weight.quant_state)
        elif isinstance(part, bnb.nn.Linear4bit):
            # By its own definition: its kernel for CPUs takes another row's scales there.
            state = weight.quant_state
            flat = weight.data.flatten(), state.absmax, state.code, state.blocksize
            found[f"{name}.weight"] = _dequantize_4bit_compute(*flat, state.shape, torch.float32)
    return found


def main() -> None:
    held, said = dict[str, torch.Tensor](), dict[str, str]()
    for how in BITS:
        with tempfile.TemporaryDirectory() as folder:
            for name, weight in quantise(how, Path(folder)).items():
                said[f"{how}: {name}"] = digest(weight)
            stored = load_file(Path(folder) / "quantised" / "model.safetensors")
            held |= {f"{how}: {name}": tensor.clone() for name, tensor in stored.items() if "_proj." in name}
    save_file(held, HELD, metadata=said)


if __name__ == "__main__":
    main()
