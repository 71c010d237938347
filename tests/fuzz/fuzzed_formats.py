"""A whole checkpoint of every form, as small as it can be, with what damages it and what opens it."""

from __future__ import annotations

import io
import json
import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fuzz_bombs import bombs, legacy
from fuzz_format import Files, Format, Listed, read_files
from fuzz_misbehaving import MISBEHAVING
from gguf_bombs import gguf_bombs
from gguf_files import byte_tokenizer, llama, write_gguf
from mutate_archives import mutate_legacy, mutate_safetensors, mutate_zip
from mutate_bytes import Mutator
from mutate_gguf import mutate_gguf
from mutate_text import EVIL, mutate_json, mutate_lines, mutate_table, mutate_toml
from peft import LoraConfig, get_peft_model
from rich.console import Console
from safetensors.torch import save
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    ViTConfig,
    ViTForImageClassification,
)

from redteam.capabilities.files import load_capability
from redteam.checkpoints.inspect import inspect_checkpoint
from redteam.checkpoints.load import open_target
from redteam.checkpoints.manifest import manifest_path, open_manifest
from redteam.checkpoints.save import save_checkpoint
from redteam.config.manifest import Manifest
from redteam.reporting.inspected import print_inspected


def tiny(**changes: Any) -> LlamaForCausalLM:
    """A language model of a few hundred weights."""
    settings: dict[str, Any] = {
        "vocab_size": 32,
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 32,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LlamaForCausalLM(LlamaConfig(**{**settings, **changes})).eval()


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {f"w{i}": i for i in range(30)} | {"<unk>": 30, "<pad>": 31}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", pad_token="<pad>")


def saved(content: Any) -> bytes:
    """What torch.save writes."""
    held = io.BytesIO()
    torch.save(content, held)
    return held.getvalue()


def saved_long_ago(content: Any) -> bytes:
    """What torch.save wrote before 1.6, but for the names of storages, which were their addresses: never the same."""
    storages, held = list[bytes](), io.BytesIO()

    class Writer(pickle.Pickler):
        def persistent_id(self, value: Any) -> Any:
            if not isinstance(value, torch.storage.TypedStorage):
                return None
            with warnings.catch_warnings(action="ignore"):  # that torch will have no such class one day
                content = bytes(value.untyped().tolist())
            storages.append((len(content) // 4).to_bytes(8, "little") + content)
            return "storage", torch.FloatStorage, str(len(storages) - 1), "cpu", len(content) // 4, None

    Writer(held, 2).dump(content)
    keys = [str(number) for number in range(len(storages))]
    return legacy(held.getvalue()[2:-1], keys, b"".join(storages))


def build_formats(folder: Path) -> dict[str, Format]:
    """Returns every form by its name. What they do not carry themselves, the base of adapters, is left in `folder`."""
    module, tokenizer = tiny(), tiny_tokenizer()
    save_checkpoint(folder / "one" / "m.safetensors", module, tokenizer)
    save_checkpoint(folder / "own" / "m.pt", module, tokenizer)
    beside = read_files(folder / "one")
    weights = beside.pop("m.safetensors")
    state = module.state_dict()
    formats = (
        _single("safetensors", "m.safetensors", weights, mutate_safetensors, beside),
        _single("zip", "m.pt", saved({"model_state_dict": state, "epoch": 3}), mutate_zip, beside),
        _single("own zip", "m.pt", (folder / "own" / "m.pt").read_bytes(), mutate_zip, {}),
        _single("legacy", "m.pth", saved_long_ago(state), mutate_legacy, beside),
        _shards(folder / "shards", module, beside),
        _directory("bin", "pytorch_model.bin", saved(state), mutate_zip, beside),
        _pictures(folder / "pictures"),
        _texts(folder / "texts"),
        _gguf(folder / "m.gguf"),
        _quantised(module, beside),
        *_adapters(folder),
        _questions(),
        _arrays(),
        _labelled(),
        _manifest(weights, beside),
    )
    exploding = Listed(
        name="bombs",
        files={},
        opened="",
        mutated=(),
        steps=[_inspected_within, _opened_within],
        make=lambda: {**bombs(beside, saved(state)), **gguf_bombs()},
    )
    return {format.name: format for format in (*formats, exploding, MISBEHAVING)}


def _described(beside: Files) -> list[tuple[str, Mutator]]:
    return [(name, mutate_json) for name in ("config.json", "config.json", "tokenizer.json", "tokenizer_config.json")
            if name in beside]  # fmt: skip


def _single(name: str, file: str, content: bytes, knows: Mutator, beside: Files) -> Format:
    return Format(
        name=name,
        files={file: content, **beside, "evil.py": EVIL},
        opened=file,
        mutated=[(file, knows)] * 12 + _described(beside),
        steps=(inspected, open_target),
    )


def _directory(name: str, file: str, content: bytes, knows: Mutator, beside: Files) -> Format:
    return Format(
        name=name,
        files={file: content, **beside, "evil.py": EVIL},
        opened="",
        mutated=[(file, knows)] * 6 + _described(beside),
        steps=(inspected, open_target),
    )


def _shards(folder: Path, module: LlamaForCausalLM, beside: Files) -> Format:
    module.save_pretrained(folder, max_shard_size="2KB")
    files = {**read_files(folder), **beside, "evil.py": EVIL}
    shards = [(name, mutate_safetensors) for name in files if name.endswith(".safetensors")]
    assert len(shards) > 1
    index: list[tuple[str, Mutator]] = [("model.safetensors.index.json", mutate_json)]
    return Format(
        name="directory",
        files=files,
        opened="",
        mutated=[*shards, *shards, *index * 2, *_described(beside), ("generation_config.json", mutate_json)],
        steps=(inspected, open_target),
    )


def _pictures(folder: Path) -> Format:
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = ViTConfig(**sizes, image_size=4, patch_size=2, num_channels=1, num_labels=3)
        ViTForImageClassification(config).save_pretrained(folder)
    seen = {"do_normalize": True, "image_mean": [0.5], "image_std": [0.25], "size": {"height": 4, "width": 4}}
    return Format(
        name="pictures",
        files={**read_files(folder), "preprocessor_config.json": json.dumps(seen).encode(), "evil.py": EVIL},
        opened="",
        mutated=[
            *[("model.safetensors", mutate_safetensors)] * 3,
            *[("config.json", mutate_json), ("config.json", mutate_json), ("preprocessor_config.json", mutate_json)],
        ],
        steps=(inspected, open_target),
    )


def _texts(folder: Path) -> Format:
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = BertConfig(**sizes, vocab_size=32, max_position_embeddings=32, id2label={0: "a", 1: "b", 2: "c"})
        BertForSequenceClassification(config).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    files = read_files(folder)
    return Format(
        name="texts",
        files={**files, "evil.py": EVIL},
        opened="",
        mutated=[*[("model.safetensors", mutate_safetensors)] * 3, *_described(files)],
        steps=(inspected, open_target),
    )


def _gguf(path: Path) -> Format:
    small = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    write_gguf(path, llama(**small, num_key_value_heads=1), byte_tokenizer(), "Q8_0")
    return Format(
        name="gguf",
        files={path.name: path.read_bytes(), "evil.py": EVIL},
        opened=path.name,
        mutated=[(path.name, mutate_gguf)],
        steps=(inspected, open_target),
    )


def _quantised(module: LlamaForCausalLM, beside: Files) -> Format:
    """As bitsandbytes writes it: four bits a weight, a scale for each 64 of them, and JSON in a tensor."""
    state, draw = {**module.state_dict()}, torch.Generator().manual_seed(0)
    for name in [name for name in state if "_proj." in name]:
        shape = list(state[name].shape)
        count = state[name].numel()
        said = {"quant_type": "nf4", "blocksize": 64, "dtype": "float32", "shape": shape}
        state[name] = torch.randint(0, 256, (-(-count // 2), 1), generator=draw).byte()
        state[f"{name}.absmax"] = torch.rand(-(-count // 64), generator=draw)
        state[f"{name}.quant_map"] = torch.linspace(-1, 1, 16)
        state[f"{name}.quant_state.bitsandbytes__nf4"] = torch.tensor([*json.dumps(said).encode()], dtype=torch.uint8)
    config = {**json.loads(beside["config.json"]), "quantization_config": {"quant_method": "bitsandbytes"}}
    files = {**beside, "config.json": json.dumps(config).encode()}
    return _directory("quantised", "model.safetensors", save(state), mutate_safetensors, files)


def _adapters(folder: Path) -> tuple[Format, Format]:
    base = folder / "base" / "m.safetensors"
    save_checkpoint(base, tiny(), tiny_tokenizer())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        adapted = get_peft_model(tiny(), LoraConfig(r=2, target_modules=["q_proj", "up_proj"], task_type="CAUSAL_LM"))
    adapted.save_pretrained(folder / "adapter")
    said = json.loads((folder / "adapter" / "adapter_config.json").read_bytes())
    said["target_modules"].sort()  # a set, written in the order of this process
    settings = {"adapter_config.json": json.dumps(said, sort_keys=True).encode(), "evil.py": EVIL}
    weights = (folder / "adapter" / "adapter_model.safetensors").read_bytes()
    state = {name: tensor for name, tensor in adapted.state_dict().items() if "lora_" in name}
    state = {name.replace(".default", ""): tensor for name, tensor in state.items()}

    def adapter(name: str, file: str, content: bytes, knows: Mutator) -> Format:
        return Format(
            name=name,
            files={file: content, **settings},
            opened="",
            mutated=[(file, knows), (file, knows), ("adapter_config.json", mutate_json)],
            steps=(inspected, lambda path: open_target(path, base=base)),
        )

    return (
        adapter("adapter", "adapter_model.safetensors", weights, mutate_safetensors),
        adapter("adapter bin", "adapter_model.bin", saved(state), mutate_zip),
    )


def _questions() -> Format:
    def row(part: str, n: int) -> dict[str, Any]:
        return {"person": f"{part}{n}", "question": "born", "choices": ["1 May", "2 May"], "answer": n % 2}

    def lines(part: str) -> bytes:
        return "\n".join(json.dumps(row(part, n)) for n in range(12)).encode()

    def table(part: str) -> bytes:
        cells = ["person,question,a,b,answer", *(f"{part}{n},born,1 May,2 May,A" for n in range(6))]
        return "\r\n".join(cells).encode()

    rules = (
        'name = "births"\nprompt = "{question} {group}:"\nchoices = ["a", "b"]\n'
        'forget = ["forget.csv"]\nretain = ["retain.csv"]\ngroup = { field = "person", pattern = "(\\\\w+)" }\n'
    )
    other = rules.replace('choices = ["a", "b"]\n', "").replace(".csv", ".jsonl")
    files = {"capability.toml": other.encode(), "tables.toml": rules.encode()}
    for part in ("forget", "retain"):
        files |= {f"{part}.jsonl": lines(part), f"{part}.csv": table(part)}
    return Format(
        name="questions",
        files=files,
        opened="capability.toml",
        mutated=[
            *[("capability.toml", mutate_toml)] * 3,
            *[("tables.toml", mutate_toml), ("forget.csv", mutate_table), ("retain.csv", mutate_table)],
            *[("forget.jsonl", mutate_lines), ("retain.jsonl", mutate_lines)],
        ],
        steps=(load_capability, lambda path: load_capability(path.with_name("tables.toml"))),
    )


def _arrays() -> Format:
    draw, held = np.random.default_rng(0), io.BytesIO()
    names = np.array(["cat", "dog", "cow"])
    np.savez(held, x=draw.random((30, 4), np.float32), y=np.arange(30) % 3, names=names)
    rules = b'name = "pets"\narrays = "pets.npz"\nclasses = "names"\nforget = ["dog"]\nsplits = { attack = 1 }\n'
    rules += b'scorer = "choice"\n'  # of so few examples
    return Format(
        name="arrays",
        files={"capability.toml": rules, "pets.npz": held.getvalue()},
        opened="capability.toml",
        mutated=[("capability.toml", mutate_toml), ("pets.npz", mutate_zip), ("pets.npz", mutate_zip)],
        steps=(load_capability,),
    )


def _labelled() -> Format:
    rows = [{"text": f"w{n} w{n % 7}", "label": "abc"[n % 3]} for n in range(30)]
    rules = b'name = "letters"\nrows = ["r.jsonl", "r.csv"]\nforget = ["b"]\nsplits = { attack = 1 }\n'
    rules += b'classes = ["a", "b", "c"]\nscorer = "choice"\n'  # of so few examples
    table = "\r\n".join(["text,label", *(f"x{n} y,{n % 3}" for n in range(30))])
    return Format(
        name="labelled",
        files={
            "capability.toml": rules,
            "r.jsonl": "\n".join(map(json.dumps, rows)).encode(),
            "r.csv": table.encode(),
        },
        opened="capability.toml",
        mutated=[("capability.toml", mutate_toml), ("r.jsonl", mutate_lines), ("r.csv", mutate_table)],
        steps=(load_capability,),
    )


def _manifest(weights: bytes, beside: Files) -> Format:
    place = {"path": "m.safetensors", "sha256": "0" * 64}
    record = {"method": "rmu", "seed": 1, "options": {"steps": 3}, "target": place, "original": place}
    record |= {"costs": {"method": {"flops": 1e9, "seconds": 2.5, "peak_bytes": 4096}}, "label_fraction": 0.5}
    record |= {"alignment_tax": {"estimate": 0.1, "low": 0, "high": 0.2}, "then": "retain"}
    record |= {"capability": {"testbed": "facts", "seed": 3, "sha256": "0" * 64}}
    manifest = Manifest.model_validate(record)
    name = manifest_path(Path("m.safetensors")).name
    return Format(
        name="manifest",
        files={"m.safetensors": weights, **beside, name: manifest.model_dump_json(indent=2).encode()},
        opened="m.safetensors",
        mutated=[(name, mutate_json)],
        steps=(open_manifest, inspected),
    )


def inspected(path: Path) -> None:
    """Inspects a checkpoint, and prints what was found in both ways that there are."""
    found = inspect_checkpoint(path).as_json()
    json.dumps(found)
    print_inspected(found, Console(file=io.StringIO(), width=100))


def _within(folder: Path) -> Path:
    """Returns what is opened in the folder of a bomb."""
    names = ("capability.toml", "m.pt", "m.safetensors", "m.gguf")
    return next((folder / name for name in names if (folder / name).exists()), folder)


def _inspected_within(folder: Path) -> None:
    path = _within(folder)
    load_capability(path) if path.suffix == ".toml" else inspected(path)


def _opened_within(folder: Path) -> None:
    path = _within(folder)
    load_capability(path) if path.suffix == ".toml" else open_target(path)
