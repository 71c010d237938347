"""Small files that would be large in memory, or take for ever: each is of one idea, and made by hand."""

from __future__ import annotations

import io
import json
import pickle
import random
import struct
import zipfile
from collections.abc import Mapping, Sequence

import numpy as np
from mutate_archives import two_tables, unzipped, zipped
from mutate_pickles import called, collisions, integer, laughs, text

from redteam.checkpoints.identify import LEGACY_MAGIC

Files = dict[str, bytes]
MANY = 200_000
ORDERED = b"ccollections\nOrderedDict\nq\x00"
# What replaces the object of a pickle. Each is followed by the end.
PICKLES: Mapping[str, bytes] = {
    "dicts": b"(" + b"}" * MANY + b"t",
    "dicts with something in them": b"(" + b"}K\x00Ns" * MANY + b"t",
    "sets": b"(" + b"\x8f" * MANY + b"t",
    "ordered dicts": b"(" + ORDERED + b"h\x00)RK\x00Ns" * MANY + b"t",
    "tuples in tuples": b")" + b"\x85" * MANY,
    "a key of tuples in tuples": b"})" + b"\x85" * MANY + b"Ns",
    "lists in lists": b"]" * MANY + b"a" * (MANY - 1),
    "a key that is endless": b"}" + laughs(60) + b"Ns",
    "two keys that are endless": b"}(" + laughs(60) + b"N" + laughs(60) + b"Nu",
    "a value that is endless": b"}" + text("w") + laughs(60) + b"s",
    "keys of one hash": collisions(100_000),
    "room for a number": b"c__builtin__\nbytearray\n" + integer(2 * 10**9) + b"\x85R",
    "a tensor of a number": b"ctorch\nFloatTensor\n" + integer(10**9) + b"\x85R",
    "a slow codec": b"c_codecs\nencode\n"
    + text("".join(map(chr, random.Random(0).sample(range(0xA0, 0xD000), 20_000))))
    + text("punycode")
    + b"\x86R",
    "the memo to the sky": b"}r\xff\xff\xff\xff",
    "a million marks": b"(" * 900_000 + b"t",
    "a string that is not there": b"X\xff\xff\xff\x7f",
    "called and forgotten": b"(" + called("collections", "OrderedDict") * 40_000 + b"t",
}
PARTS = b"[" + b",".join([b"[]"] * 2_500_000) + b"]"
STRINGS = b"[" + b",".join([b'"ab"'] * 1_500_000) + b"]"


def bombs(beside: Files, weights: bytes) -> dict[str, Files]:
    """Returns files by what they are.

    Args:
        beside: config and tokenizer of a language model.
        weights: its weights as torch.save writes them.
    """
    found: dict[str, Files] = {}
    entries = unzipped(weights)
    for title, piece in PICKLES.items():
        held = [(name, b"\x80\x02" + piece + b"." if name.endswith("data.pkl") else old) for name, old in entries]
        found[f"zip: {title}"] = {**beside, "m.pt": zipped(held)}
        found[f"legacy: {title}"] = {**beside, "m.pt": legacy(piece)}
    inflated = [(name, old + bytes(64_000_000) if name.endswith("data.pkl") else old) for name, old in entries]
    second = two_tables(zipped(entries), zipped(inflated, zipfile.ZIP_DEFLATED))
    found["zip: another table, compressed"] = {**beside, "m.pt": second}
    for title, content in {"parts": PARTS, "strings": STRINGS}.items():
        for name in ("config.json", "adapter_config.json", "model.safetensors.index.json"):
            files = {"model.safetensors" if name == "config.json" else "adapter_model.bin": header(b"{}")}
            found[f"{name}: {title}"] = {**files, "config.json": b"{}", name: b'{"a":' + content + b"}"}
        found[f"header: {title}"] = {"m.safetensors": header(b'{"__metadata__":' + content + b"}")}
        found[f"manifest: {title}"] = {"m.pt": weights, "m.redteam.json": b'{"a":' + content + b"}"}
    for count in (20_000, 150_000):
        tensors = {str(n): {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for n in range(count)}
        found[f"header: {count} tensors of nothing"] = {"m.safetensors": header(json.dumps(tensors).encode())}
        empty = zipped([*entries, *((f"archive/{n}", b"") for n in range(4 * count))])
        found[f"zip: {4 * count} empty entries"] = {**beside, "m.pt": empty}
    return {**found, **_configs(beside, weights), **_capabilities()}


def header(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


def legacy(piece: bytes, keys: Sequence[str] = (), storages: bytes = b"") -> bytes:
    """Returns a file as torch wrote it before 1.6, around the instructions that make its object."""
    machine = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    numbers = pickle.dumps(1001, 2), pickle.dumps(machine, 2)
    return LEGACY_MAGIC + b"".join(numbers) + b"\x80\x02" + piece + b"." + pickle.dumps(list(keys), 2) + storages


def _configs(beside: Files, weights: bytes) -> dict[str, Files]:
    config, words = json.loads(beside["config.json"]), json.loads(beside["tokenizer.json"])
    rope = {"rope_type": "yarn", "factor": 2.0, "rope_theta": 1e4, "partial_rotary_factor": 1e9}
    vision = {"model_type": "siglip_vision_model", "num_hidden_layers": 25_000}
    changes: dict[str, dict[str, object]] = {
        "layers": {"model_type": "qwen2", "num_hidden_layers": 10**9},
        "layers, squared": {"model_type": "lfm2", "num_hidden_layers": 99_999},
        "labels": {"num_labels": 10**9},
        "layers of something else": {"model_type": "gemma3", "vision_config": vision, "text_config": config},
        "rotary numbers": {"rope_parameters": rope},
        "a dimension": {"model_type": "diffllama", "head_dim": 10**9},
    }
    table = {"type": "Precompiled", "precompiled_charsmap": "/////w=="}
    return {
        **{f"config: {t}": _with(beside, weights, "config.json", config | c) for t, c in changes.items()},
        "tokenizer: a table": _with(beside, weights, "tokenizer.json", words | {"normalizer": table}),
    }


def _with(beside: Files, weights: bytes, name: str, data: object) -> Files:
    return {**beside, "m.pt": weights, name: json.dumps(data).encode()}


RULES = 'name = "x"\nforget = ["f.jsonl"]\nretain = ["f.jsonl"]\n'
CLASSES = 'name = "x"\narrays = "a.npz"\nforget = [0]\nscorer = "choice"\n'


def _capabilities() -> dict[str, Files]:
    row = {"person": "a" * 60, "choices": ["x", "y"], "answer": 0}
    rows, held = json.dumps(row).encode(), io.BytesIO()
    np.savez_compressed(held, x=np.zeros((40_000, 1000), np.uint8), y=np.zeros(40_000, np.uint8))
    texts = {
        "a key of parts": ".".join("a" * 60_000) + " = 1\n",
        "wide": RULES + 'prompt = "{person:1000000000}"\ngroup = { field = "person" }\n',
        "a pattern": RULES + 'prompt = "{person}"\ngroup = { field = "person", pattern = "((a|a)*b)" }\n',
        "classes": CLASSES + "classes = 1000000000000\n",
        "arrays of zeros": CLASSES + "classes = 3\n",
    }
    return {
        f"capability: {title}": {"capability.toml": text.encode(), "f.jsonl": rows, "a.npz": held.getvalue()}
        for title, text in texts.items()
    }
