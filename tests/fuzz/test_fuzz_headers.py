"""What hypothesis thinks of: headers, configs and rules of any structure are read, or refused in one line."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mutate_text import toml

from redteam.checkpoints.adapter_config import AdapterFile, adapter_config
from redteam.checkpoints.header import TensorEntry, read_header
from redteam.checkpoints.inspect import inspect_checkpoint
from redteam.checkpoints.shards import shard_paths
from redteam.config.capability import CapabilityFile, ClassesFile, Shares, read_capability_file
from redteam.config.manifest import Manifest, read_manifest
from redteam.errors import InputError

NUMBERS = st.integers() | st.sampled_from([2**31, 2**63, 2**64, 10**400, -1]) | st.floats()
ATOMS = st.none() | st.booleans() | NUMBERS | st.text(max_size=20)
JSON = st.recursive(
    ATOMS, lambda inside: st.lists(inside, max_size=4) | st.dictionaries(st.text(max_size=8), inside, max_size=4)
)
bounded = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def keyed(names: Any) -> st.SearchStrategy[dict[str, Any]]:
    """Objects of these keys and others, with any values."""
    return st.dictionaries(st.sampled_from(sorted(names)) | st.text(max_size=8), JSON, max_size=8)


def read_or_refused(read: Callable[[Path], Any], path: Path, content: bytes) -> Any:
    """Returns what was read, None if it was refused; that in one safe line."""
    path.write_bytes(content)
    try:
        return read(path)
    except InputError as error:
        said = str(error)
    assert said.isprintable()
    assert len(said) < 1500
    return None


def safetensors(header: Any, data: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


ENTRY = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "F16", "BF16", "I64", "BOOL", "F8_E4M3", "F4", "f32", ""]),
        "shape": st.lists(st.integers(0, 9) | NUMBERS, max_size=3),
        "data_offsets": st.lists(st.integers(0, 64) | NUMBERS, min_size=1, max_size=3),
    }
)


@bounded
@given(header=JSON | st.dictionaries(st.text(max_size=8) | st.just("__metadata__"), ENTRY | JSON, max_size=4))
def test_any_header(header: Any, tmp_path: Path) -> None:
    read_or_refused(read_header, tmp_path / "m.safetensors", safetensors(header, bytes(64)))


@bounded
@given(sizes=st.lists(st.integers(0, 5), min_size=1, max_size=3), name=st.text(min_size=1, max_size=8))
def test_a_header_that_is_right(sizes: list[int], name: str, tmp_path: Path) -> None:
    """Or all that the tests above show is that nothing is read."""
    total = 4
    for size in sizes:
        total *= size
    header = {name: {"dtype": "F32", "shape": sizes, "data_offsets": [0, total]}}
    held = read_or_refused(read_header, tmp_path / "m.safetensors", safetensors(header, bytes(total)))
    assert held in ({name: TensorEntry("F32", tuple(sizes))}, None)
    assert held is not None or name == "__metadata__" or not name.isprintable()


@bounded
@given(config=keyed({*AdapterFile.model_fields, "target_modules", "base_model_name_or_path"}))
def test_any_adapter_config(config: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "adapter_model.safetensors").write_bytes(
        safetensors({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, bytes(4))
    )
    for said in (config, {"peft_type": "LORA", **config}):
        path = tmp_path / "adapter_config.json"
        read_or_refused(lambda path: adapter_config(path.parent), path, json.dumps(said).encode())
        read_or_refused(lambda path: inspect_checkpoint(path.parent), path, json.dumps(said).encode())


@bounded
@given(index=JSON | st.fixed_dictionaries({"weight_map": st.dictionaries(st.text(max_size=4), JSON, max_size=3)}))
def test_any_index_of_shards(index: Any, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors.index.json"
    found = read_or_refused(lambda path: shard_paths(path.parent), path, json.dumps(index).encode())
    assert all(shard.parent == tmp_path for shard in found or ())


@bounded
@given(manifest=keyed(Manifest.model_fields))
def test_any_manifest(manifest: dict[str, Any], tmp_path: Path) -> None:
    read_or_refused(read_manifest, tmp_path / "m.redteam.json", json.dumps(manifest).encode())


@bounded
@given(rules=keyed({*CapabilityFile.model_fields, *ClassesFile.model_fields, *Shares.model_fields}))
def test_any_rules(rules: dict[str, Any], tmp_path: Path) -> None:
    lines = [f"{json.dumps(key)} = {toml(value)}" for key, value in rules.items()]
    read_or_refused(
        read_capability_file, tmp_path / "capability.toml", "\n".join(lines).encode("utf-8", "surrogatepass")
    )


@pytest.mark.parametrize("value", ["x", ["a", {"b": 1.5}], {"a b": {"c": [True]}}])
def test_the_writer_of_toml_writes_what_can_be_read(value: Any) -> None:
    import tomllib

    assert tomllib.loads(f"x = {toml(value)}") == {"x": value}
