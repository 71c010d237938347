"""JSON, TOML, JSON lines and CSV that stay readable and say something else than before."""

from __future__ import annotations

import copy
import json
import random
import tomllib
from collections.abc import Iterator, Sequence
from typing import Any

from mutate_bytes import NUMBERS

MARKER = "ran"  # the file that code of an attacker's would write; see `fuzz_case`
EVIL = f"def touch(*_):\n    open({MARKER!r}, 'w').close()\n\n\ntouch()\n".encode()  # shows that it was imported
PATHS = ("../../../../etc/passwd", "/etc/passwd", "/dev/zero", "/dev/stdin", "..\\x", ".", "", "x" * 300, "a\0b", "~")
STRINGS = (
    *PATHS,
    *("\ud800", "\x1b[31mred\x1b[0m", "two\nlines", "\u2028", "x" * 5000, "{}", "{0}", "%s", "\N{PILE OF POO}" * 50),
    *("evil", "evil.Model", "someone/evil", "__class__", "NaN", "None", "1", "F64", "F6_E2M3", "float8_e4m3fn", "meta"),
    *("{question.__class__.__init__.__globals__}", "{question:1000000000}", "{question:{answer}}", "{", "$HOME/x"),
    *("(a+)+$", "(((((x)))))*", "(a{99999999999})", "(" * 3000, "((a|a)*b)", ".*"),
)
# Text that no writer of JSON would write, put in the place of a value.
RAW = (
    *("NaN", "-Infinity", "1e999", "-0", "9" * 4300, "9" * 4301, "-" + "9" * 4299, '"\\ud800"', '"\\u0000"', "tru"),
    *("[" * 200 + "]" * 200, "[" * 980 + "]" * 980, "[" * 100_000, '{"a":' * 970 + "1" + "}" * 970, ""),
)
MODEL_TYPES = (
    *("gpt2", "qwen2", "qwen3_moe", "gemma2", "gemma3", "gemma3n", "gpt_neox", "opt", "bloom", "falcon"),
    *("mpt", "mamba", "mixtral", "phi3", "bart", "bert", "xlm", "ctrl", "rwkv", "llama4", "t5", "vit"),
    *("albert", "xlnet", "lfm2", "diffllama", "nonesuch"),
)
CLASSES = (
    *("LlamaTokenizer", "GPT2Tokenizer", "BertTokenizer", "T5Tokenizer", "ByT5Tokenizer", "RagTokenizer", "evil.T"),
    *("PreTrainedTokenizerFast", "PreTrainedTokenizer", "Wav2Vec2CTCTokenizer", "object", "LlamaForCausalLM"),
)
KINDS_OF_CHARSMAP = ("", "AAAAgA==", "/////////w==", "BAAAAAAAAAA=", "!!")
TEMPLATE = "{{ cycler.__init__.__globals__.os.system('touch " + MARKER + "') }}"


def hostile(draw: random.Random) -> tuple[str, Any]:
    """A key that some library obeys, with a value that it had better not."""
    many = draw.choice((10**5 + 1, 10**9, 2**31 - 1, 10**12))
    table: tuple[tuple[str, Any], ...] = (
        ("auto_map", dict.fromkeys(("AutoConfig", "AutoModelForCausalLM", "AutoTokenizer"), "evil.Model")),
        ("auto_map", {"AutoTokenizer": ["evil.Model", None]}),
        ("trust_remote_code", True),
        ("custom_pipelines", {"text-generation": {"impl": "evil.Model"}}),
        ("transformers_weights", draw.choice(PATHS)),
        ("quantization_config", {"quant_method": "bitsandbytes", "load_in_4bit": True}),
        ("attn_implementation", "someone/kernel"),
        ("model_type", draw.choice(MODEL_TYPES)),
        ("architectures", ["evil.Model"]),
        ("redteam_architecture", {"name": "mlp", "sizes": [many, 2], "inputs": 4}),
        ("redteam_architecture", draw.choice(("x", {"name": "resnet"}, {"name": "mlp", "widths": [4] * 300}))),
        *((name, many) for name in ("num_hidden_layers", "n_layer", "num_labels", "vocab_size", "hidden_size")),
        *((name, many) for name in ("head_dim", "num_attention_heads", "num_local_experts", "intermediate_size")),
        ("layer_types", ["full_attention"] * draw.choice((0, 2, 10**5))),
        ("rope_parameters", {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0, "partial_rotary_factor": 1e9}),
        ("rope_parameters", {"rope_type": draw.choice(("dynamic", "longrope", "llama3", "x")), "rope_theta": 0}),
        ("vision_config", {"model_type": "siglip_vision_model", "num_hidden_layers": many}),
        ("text_config", {"num_hidden_layers": many, "hidden_size": 8}),
        ("tokenizer_class", draw.choice(CLASSES)),
        *((name, draw.choice(PATHS)) for name in ("tokenizer_file", "vocab_file", "name_or_path", "cache_dir")),
        ("chat_template", TEMPLATE),
        ("added_tokens_decoder", {str(many): {"content": "x", "special": True}}),
        ("added_tokens_decoder", draw.choice(([1], {"x": {}}, {"1": {"__type": "AddedToken", "content": 3}}))),
        ("extra_special_tokens", draw.choice((["x"] * 3, {"x": "y"}, 3))),
        ("normalizer", {"type": "Precompiled", "precompiled_charsmap": draw.choice(KINDS_OF_CHARSMAP)}),
        ("padding", {"strategy": {"Fixed": many}, "direction": "Right", "pad_id": 0, "pad_type_id": 0}),
        ("model", {"type": "Unigram", "vocab": [["a", 0.0]], "unk_id": draw.choice((0, 9))}),
        ("model", {"type": "BPE", "vocab": {"a": 0, "b": 2**32 - 1}, "merges": [["a", "b"]]}),
        ("pre_tokenizer", {"type": "Split", "pattern": {"Regex": "((a{99}){99}){99}"}, "behavior": "Isolated"}),
        ("auto_mapping", {"base_model_class": "evil", "parent_library": "evil"}),
        ("megatron_core", "evil"),
        ("image_mean", draw.choice(([many], [0.5] * 3, [10**400], "x", [None]))),
        ("hidden_sizes", [8, many]),
        ("depths", draw.choice(([many], [-1], many, "x"))),
        ("id2label", draw.choice(({}, {"x": "y"}, {str(many): "y"}, ["a", "b"]))),
        ("peft_type", draw.choice(("LORA", "IA3", "PROMPT_TUNING", "evil"))),
        ("init_lora_weights", draw.choice(("pissa", "loftq", "gaussian", 1))),
        ("target_modules", draw.choice(("(a+)+$", ["evil"], None))),
        ("rank_pattern", {"q_proj": many}),
        ("alpha_pattern", {"(q+)+": 1}),
        ("modules_to_save", draw.choice((["lm_head"], ["x"] * 1000, "lm_head"))),
        ("base_model_name_or_path", draw.choice(STRINGS)),
        ("metadata", draw.choice(([1], {}, {"total_size": many}))),
        ("weight_map", {"model.norm.weight": draw.choice(PATHS) + ".safetensors"}),
        ("__metadata__", draw.choice(({"redteam_architecture": "{}"}, {"format": "tf"}, [], {"x": 1}))),
        ("dtype", draw.choice(("F64", "F4", "F6_E2M3", "I8", "C64", "bfloat16", "float8_e4m3fn", "x"))),
        ("shape", draw.choice(([0, 2**63], [many], [0] * 1000, [2**31, 2**31]))),
        ("data_offsets", [0, many]),
        ("path", draw.choice(PATHS)),
        ("sha256", "0" * 64),
        ("choices", draw.choice(([], ["a"], ["a", "b"] * 500, "ab", [["a"], ["b"]]))),
        ("answer", draw.choice((0, -1, "A", "b", many, None))),
        ("classes", many),
        ("most", many),
        ("arrays", draw.choice(PATHS)),
        ("forget", draw.choice(([], PATHS[:3], [0, 0], ["0"]))),
        ("splits", {"attack": 1e308, "select": 1e308, "certify": 5e-324}),
        ("group", {"field": "person", "pattern": draw.choice(STRINGS)}),
    )
    return draw.choice(table)


def value(draw: random.Random, depth: int = 2) -> Any:
    """Any value that JSON can hold, mostly an extreme one."""
    kind = draw.randrange(8 if depth else 6)
    if kind < 2:
        return draw.choice(NUMBERS)
    if kind == 2:
        return draw.choice((0.0, -1.5, 1e308, 5e-324, 1e-6, 0.5, True, False, None))
    if kind < 6:
        return draw.choice(STRINGS)
    inside = [value(draw, depth - 1) for _ in range(draw.randint(0, 3))]
    return inside if kind == 6 else {hostile(draw)[0]: held for held in inside}


def places(data: Any) -> Iterator[tuple[Any, Any]]:
    """Every place of a value: what holds it, and where."""
    waiting = [data]
    while waiting:
        holder = waiting.pop()
        if isinstance(holder, dict | list):
            keys = list(holder) if isinstance(holder, dict) else range(len(holder))
            for key in keys:
                yield holder, key
                waiting.append(holder[key])


def change(draw: random.Random, data: Any) -> Any:
    """Returns the data changed at one place."""
    found = list(places(data))
    if not found or draw.randrange(60) == 0:
        return value(draw)
    holder, key = draw.choice(found)
    kind = draw.randrange(10)
    if kind < 4:
        holder[key] = value(draw)
    elif kind == 4 and isinstance(holder, dict):
        holder[draw.choice((draw.choice(STRINGS), hostile(draw)[0]))] = holder.pop(key)
    elif kind == 5:
        del holder[key]
    elif kind == 6:
        other, where = draw.choice(found)
        holder[key] = copy.deepcopy(other[where])  # a copy: what holds itself cannot be written
    elif kind == 7 and isinstance(holder, list):
        holder[key:key] = [copy.deepcopy(holder[key]) for _ in range(draw.choice((1, 20)))]
    else:
        name, held = hostile(draw)
        tables = [table for table in (data, *(h[k] for h, k in found)) if isinstance(table, dict)]
        table = draw.choice([data, *tables]) if isinstance(data, dict) else draw.choice(tables or [{}])
        table[name] = held
    return data


def dumped(draw: random.Random, data: Any, *, raw: bool) -> bytes:
    """Returns the data as JSON; sometimes one value becomes text that is none."""
    found = list(places(data))
    if raw and found:
        holder, key = draw.choice(found)
        holder[key] = "@raw@"
    text = json.dumps(data, ensure_ascii=draw.random() < 0.5)
    return text.replace('"@raw@"', draw.choice(RAW)).encode("utf-8", "surrogatepass")


def mutate_json(draw: random.Random, content: bytes, others: Sequence[bytes] = ()) -> bytes:
    """Changes one to three values of a JSON text."""
    data = json.loads(content)
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        data = change(draw, data)
    return dumped(draw, data, raw=draw.randrange(6) == 0)


def mutate_lines(draw: random.Random, content: bytes, others: Sequence[bytes] = ()) -> bytes:
    """Changes lines of JSON lines."""
    lines = content.split(b"\n")
    whole = set(lines)
    for _ in range(draw.randint(1, 3)):
        place = draw.randrange(len(lines))
        kind = draw.randrange(6)
        if kind < 4 and lines[place] in whole:
            lines[place] = mutate_json(draw, lines[place], others)
        elif kind == 4:
            lines[place : place + 1] = [lines[place]] * draw.choice((0, 2, 500))
        else:
            lines[place] = draw.choice((b"", b" ", b"[]", b"null", b"\xff", lines[place] * 2))
        lines = lines or [b""]
    return b"\n".join(lines)


def mutate_table(draw: random.Random, content: bytes, others: Sequence[bytes] = ()) -> bytes:
    """Changes cells of a CSV."""
    rows = [line.split(b",") for line in content.split(b"\r\n")]
    for _ in range(draw.randint(1, 3)):
        row = draw.choice(rows)
        said = draw.choice((*STRINGS, '"', '""', 'a"b', "x" * 140_000, ",", "\r", "=1+1"))
        cell = said.encode("utf-8", "surrogatepass")
        kind = draw.randrange(4)
        if kind == 0:
            row[draw.randrange(len(row))] = cell
        elif kind == 1:
            row.insert(draw.randrange(len(row) + 1), cell)
        elif kind == 2:
            row[draw.randrange(len(row))] = b'"' + cell.replace(b'"', b'""') + b'"'
        else:
            rows.append(list(draw.choice(rows)))
    return b"\r\n".join(b",".join(row) for row in rows)


def toml(data: Any) -> str:
    """Writes what `tomllib` read, and what it would not read."""
    if isinstance(data, dict):
        return "{" + ", ".join(f"{json.dumps(str(key))} = {toml(held)}" for key, held in data.items()) + "}"
    if isinstance(data, list | tuple):
        return "[" + ", ".join(map(toml, data)) + "]"
    return json.dumps(data)  # "null" is no TOML, which is as well


RAW_TOML = (
    *("nan", "-inf", "0x" + "f" * 5000, "1979-05-27T07:32:00Z", "'''x'''", "[" * 900 + "]" * 900, "{a=" * 500 + "1"),
    *("1_0", '"\\UFFFFFFFF"', "1e400", "9" * 4000, "9" * 5000),
)


def mutate_toml(draw: random.Random, content: bytes, others: Sequence[bytes] = ()) -> bytes:
    """Changes values of a TOML file, or adds lines to it."""
    data = tomllib.loads(content.decode())
    for _ in range(draw.choice((1, 1, 2))):
        changed = change(draw, data)
        data = changed if isinstance(changed, dict) else {}
    lines = [f"{json.dumps(str(key))} = {toml(held)}" for key, held in data.items()]
    kind = draw.randrange(10)
    if kind == 0 and data:
        lines[draw.randrange(len(lines))] = f"{draw.choice(list(data))!r} = {draw.choice(RAW_TOML)}"
    elif kind == 1:
        lines.append(".".join("a" * draw.choice((5, 100, 4000))) + " = 1")
    elif kind == 2:
        lines.append(draw.choice(("[a]", "[[a]]", "[group]", "[a." + "b." * 200 + "c]")))
    return "\n".join(lines).encode("utf-8", "surrogatepass")
