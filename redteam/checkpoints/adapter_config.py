"""What a PEFT adapter says of itself, read without any library: of a configuration that nobody vouches for.

Only what changes what a low-rank adapter computes is passed on: peft would import modules and make room as other keys
say.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from redteam.checkpoints.shards import ADAPTER_CONFIG
from redteam.checkpoints.untrusted import read_json
from redteam.errors import InputError

MERGE = "Merge it where you trust it: model.merge_and_unload().save_pretrained(DIRECTORY)"
PLAIN = r"^[\w.^$\\-]{1,200}$"  # peft reads these as patterns: none that could take for ever
MARK = re.compile(r"\.lora_(A|B|embedding_A|embedding_B|magnitude_vector)(\.weight|\.bias)?$")
PREFIX = "base_model.model."  # peft's, before the names of the base

Rank = Annotated[int, Field(gt=0, le=1_000_000)]
Scale = Annotated[float, Field(gt=-1e6, lt=1e6)]
Pattern = Annotated[str, Field(pattern=PLAIN)]


class AdapterFile(BaseModel):
    """`adapter_config.json`: what of it changes what a low-rank adapter computes. Names are peft's."""

    model_config = ConfigDict(extra="allow", frozen=True)

    peft_type: Literal["LORA"]
    r: Rank = 8
    lora_alpha: Scale = 8
    use_rslora: bool = False
    use_dora: bool = False
    lora_bias: bool = False
    fan_in_fan_out: bool = False
    bias: Literal["none", "all", "lora_only"] = "none"
    rank_pattern: dict[Pattern, Rank] = Field(default_factory=dict, max_length=1_000)
    alpha_pattern: dict[Pattern, Scale] = Field(default_factory=dict, max_length=1_000)
    modules_to_save: list[str] | None = None
    init_lora_weights: bool | Literal["gaussian", "orthogonal", "eva"] = True  # others begin by changing the base


# Keys that matter while an adapter is trained, or choose modules: which those are, the tensors say themselves.
WITHOUT_EFFECT = {
    "auto_mapping", "base_model_name_or_path", "corda_config", "ensure_weight_tying", "eva_config", "exclude_modules",
    "inference_mode", "layers_pattern", "layers_to_transform", "loftq_config", "lora_dropout",
    "lora_ga_config", "megatron_core", "peft_version", "qalora_group_size", "revision", "runtime_config",
    "target_modules", "task_type",
}  # fmt: skip


def adapter_config(path: Path) -> dict[str, Any]:
    """Returns what the `adapter_config.json` of a directory says that changes what the adapter computes.

    Raises:
        InputError: it is of another kind than a low-rank adapter, or has something that redteam does not know.
    """
    file = path / ADAPTER_CONFIG
    try:
        read = AdapterFile.model_validate(read_json(file))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])[:100]
        raise InputError(f"{file}: {where} is {str(first['input'])[:80]!r} ({first['msg']})", MERGE) from error
    unknown = sorted(name for name, value in (read.model_extra or {}).items() if value and name not in WITHOUT_EFFECT)
    if unknown:
        raise InputError(f"{file} sets {unknown[0][:100]}, which redteam does not know", MERGE)
    return read.model_dump(include=set(AdapterFile.model_fields) - {"init_lora_weights"})


def trained_on(path: Path) -> str:
    """Returns how an adapter's directory names its base, quoted, as nothing but a name; "" where it does not."""
    name = read_json(path / ADAPTER_CONFIG).get("base_model_name_or_path")
    return f" {str(name)[:200]!r}" if name else ""


def required_base(path: Path, base: Path | None) -> Path:
    """Returns the base that was given for an adapter.

    Raises:
        InputError: no base is given.
    """
    if base is None:
        raise InputError(
            f"{path} is a PEFT adapter", f"Give the model{trained_on(path)} it was trained on: --base PATH"
        )
    return base


def adapted_modules(names: Iterable[str]) -> list[str]:
    """Returns the modules of the base that low-rank tensors of these names belong to, sorted."""
    return sorted({MARK.sub("", name).removeprefix(PREFIX) for name in names if MARK.search(name)})
