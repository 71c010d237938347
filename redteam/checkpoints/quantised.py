"""What a config says of weights that are quantised already: by which method, and whether it can be read. No torch."""

from __future__ import annotations

from typing import Any

from redteam.errors import InputError

KEY = "quantization_config"
READ = ("bitsandbytes", "fp8", "mxfp4")  # see `dequantised`
PACKED = "whose packed integers only kernels of other packages read"
WHY = {
    "gptq": PACKED,
    "awq": PACKED,
    "auto-round": PACKED,
    "compressed-tensors": "a family of formats that only the package of that name reads",
    "torchao": "whose tensors are objects of its own",
}
OTHERWISE = "which redteam does not read"
UNQUANTISED = "Give the weights that it was made from, in 16 or 32 bits"
# Of the others, transformers itself dequantises these; a line that is safe where you trust the packages it needs.
SAVED = {
    "compressed-tensors": "AutoModelForCausalLM.from_pretrained(PATH, "
    "quantization_config=CompressedTensorsConfig(dequantize=True)).save_pretrained(NEW)",
    "higgs": "model.dequantize().save_pretrained(NEW)",
}


def method_of(said: Any) -> str | None:
    """Returns the name of the method by which weights were quantised; None if nothing says so."""
    if not isinstance(said, dict):
        return None
    named = said.get("quant_method")
    if named is None and (said.get("load_in_8bit") or said.get("load_in_4bit")):
        return "bitsandbytes"  # before its configs named it
    return named if isinstance(named, str) else None


def refuse_method(said: Any, where: str) -> None:
    """Refuses weights that cannot be dequantised exactly.

    Args:
        said: what a config holds under `KEY`.
        where: it stands, for messages.

    Raises:
        InputError: the method is none of `READ`; it says which it is, why, and what helps.
    """
    method = method_of(said)
    if method in READ:
        return
    if method is None:
        raise InputError(f"{where} describes weights quantised in a way that it does not name ({KEY})", UNQUANTISED)
    line = f", or dequantise it where you trust the packages: {SAVED[method]}" if method in SAVED else ""
    why = WHY.get(method, OTHERWISE)
    raise InputError(f"{where} describes weights quantised by {method[:80]} ({KEY}), {why}", UNQUANTISED + line)
