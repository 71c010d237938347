"""GGUF files of tiny models, written by the package gguf as llama.cpp's converter writes large ones."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

TEXT = "the wren sings in the reed a lynx sleeps under the oak when was the lynx born in the month of May"
VOCABULARY = 288
KINDS = {name: gguf.GGMLQuantizationType[name] for name in ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q5_1")}
END = "<|endoftext|>"


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE with a few merges, of GPT-2's kind."""
    alphabet, merges = sorted(pre_tokenizers.ByteLevel.alphabet()), list[tuple[str, str]]()
    for word in TEXT.split():
        for end in range(1, len(word) + 1):
            pair = ("Ġ" + word[: end - 1], word[end - 1])
            merges += [pair] * (pair not in merges and len(merges) < VOCABULARY - 257)
    tokens = [END, *alphabet, *("".join(pair) for pair in merges)]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    words = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    words.add_special_tokens([END])
    return PreTrainedTokenizerFast(tokenizer_object=words, eos_token=END, pad_token=END)


def llama(**changes: Any) -> LlamaForCausalLM:
    """A Llama whose rows are whole blocks of 32, with fewer heads of keys than of queries."""
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "max_position_embeddings": 64}
    settings = {**sizes, "num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.2}
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        return LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, **{**settings, **changes})).eval()


def gpt2(**changes: Any) -> GPT2LMHeadModel:
    """A GPT-2, whose matrices lie the other way round in a file. transformers reads no number of positions there."""
    settings = {"n_embd": 64, "n_layer": 2, "n_head": 4, "initializer_range": 0.2}
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        return GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, **{**settings, **changes})).eval()


def write_gguf(
    path: Path,
    module: LlamaForCausalLM | GPT2LMHeadModel,
    tokenizer: PreTrainedTokenizerFast | Callable[[gguf.GGUFWriter], None] | None,
    kind: str = "F32",
    *,
    architecture: str | None = None,
    extra: Mapping[str, Any] | None = None,
    without: tuple[str, ...] = (),
    says: Mapping[str, float | str] | None = None,
    divides: str = "gpt-2",
) -> dict[str, torch.Tensor]:
    """Writes a file, and returns the state dict that it stands for: what blocks hold, not what went into them.

    Args:
        path: of the file.
        module: a Llama or a GPT-2.
        tokenizer: byte-level, or what writes another; None leaves it out.
        kind: what matrices are stored in; vectors are stored in float32.
        architecture: said instead of the module's own.
        extra: further tensors by name, as numpy arrays in float32.
        without: tensors that are left out, by their name in the file.
        says: further metadata of the architecture.
        divides: name of how the tokenizer divides a text.
    """
    config, arch = module.config, architecture or module.config.model_type
    writer = gguf.GGUFWriter(path, arch)
    _describe(writer, config)
    if tokenizer is None:
        writer.add_vocab_size(config.vocab_size)
    elif isinstance(tokenizer, PreTrainedTokenizerFast):
        _spell(writer, tokenizer, divides)
    else:
        tokenizer(writer)
    for key, value in (says or {}).items():
        (writer.add_string if isinstance(value, str) else writer.add_float32)(f"{arch}.{key}", value)
    names = gguf.get_tensor_name_map(
        {"llama": gguf.MODEL_ARCH.LLAMA, "gpt2": gguf.MODEL_ARCH.GPT2}[config.model_type], config.num_hidden_layers
    )
    state = {}
    for name, tensor in module.state_dict().items():
        stored_as = names.get_name(name, try_suffixes=(".weight", ".bias"))
        tied = name == "lm_head.weight" and config.tie_word_embeddings
        if stored_as is None or tied:
            assert tied, name
            continue
        array, back = _turned(name, tensor.numpy(), config)
        quantised = gguf.quants.quantize(array, KINDS[kind]) if array.ndim > 1 else array
        state[name] = torch.from_numpy(back(_read(quantised, kind, array)).copy())
        if stored_as not in without:
            _add(writer, stored_as, quantised, kind if array.ndim > 1 else "F32")
    for name, array in (extra or {}).items():
        writer.add_tensor(name, array)
    _finish(writer)
    if config.tie_word_embeddings:
        state["lm_head.weight"] = state[
            next(name for name in state if name.endswith(("embed_tokens.weight", "wte.weight")))
        ]
    return state


def write_experts(path: Path) -> Qwen3MoeForCausalLM:
    """Writes a mixture of experts, whose matrices lie in one tensor for all experts, and returns the model.

    They are as wide as transformers takes them to be, which does not read that there.
    """
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 768, "head_dim": 16}
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        config = Qwen3MoeConfig(vocab_size=VOCABULARY, **sizes, **experts, norm_topk_prob=True)
        module = Qwen3MoeForCausalLM(config).eval()
    writer = gguf.GGUFWriter(path, "qwen3moe")
    _describe(writer, config)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_expert_count(config.num_experts)
    writer.add_expert_used_count(config.num_experts_per_tok)
    writer.add_expert_feed_forward_length(config.moe_intermediate_size)
    _spell(writer, byte_tokenizer())
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN3MOE, config.num_hidden_layers)
    for name, tensor in module.state_dict().items():
        block = name.split(".")[2] if "layers" in name else ""
        if name.endswith("gate_up_proj"):
            gate, up = tensor.chunk(2, dim=1)
            writer.add_tensor(f"blk.{block}.ffn_gate_exps.weight", gate.contiguous().numpy())
            writer.add_tensor(f"blk.{block}.ffn_up_exps.weight", up.contiguous().numpy())
        elif name.endswith("experts.down_proj"):
            writer.add_tensor(f"blk.{block}.ffn_down_exps.weight", tensor.numpy())
        else:
            writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), tensor.numpy())
    _finish(writer)
    return module


def _finish(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _read(stored: np.ndarray, kind: str, array: np.ndarray) -> np.ndarray:
    return gguf.quants.dequantize(stored, KINDS[kind]) if array.ndim > 1 else array


def _add(writer: gguf.GGUFWriter, name: str, array: np.ndarray, kind: str) -> None:
    writer.add_tensor(name, array, raw_dtype=None if kind in ("F32", "F16") else KINDS[kind])


def _describe(writer: gguf.GGUFWriter, config: Any) -> None:
    writer.add_name("tiny")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(config.num_attention_heads)
    if config.model_type != "gpt2":
        writer.add_feed_forward_length(config.intermediate_size)
        writer.add_head_count_kv(config.num_key_value_heads)
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
        writer.add_rope_dimension_count(config.head_dim)
        writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    else:
        writer.add_feed_forward_length(4 * config.hidden_size)
        writer.add_layer_norm_eps(config.layer_norm_epsilon)


def _spell(writer: gguf.GGUFWriter, tokenizer: PreTrainedTokenizerFast, divides: str = "gpt-2") -> None:
    tokens = [tokenizer.convert_ids_to_tokens(number) for number in range(len(tokenizer))]
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(divides)
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL if token == END else gguf.TokenType.NORMAL for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in merges])
    for add in (writer.add_bos_token_id, writer.add_eos_token_id, writer.add_pad_token_id):
        add(tokens.index(END))


def write_pieces(path: Path, module: LlamaForCausalLM, **says: bool) -> None:
    """Writes a file with a tokenizer of sentencepiece's kind, which merges by scores.

    Args:
        path: of the file.
        module: a Llama.
        says: further metadata of the tokenizer.
    """
    pieces = ["▁", "t", "h", "e", "l", "y", "n", "x", "▁t", "▁th", "▁the", "▁l", "ly", "▁ly", "nx", "▁lynx", "s"]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    tokens += [f"zz{number}" for number in range(VOCABULARY - len(tokens))]
    kinds = [gguf.TokenType.UNKNOWN, *[gguf.TokenType.CONTROL] * 2, *[gguf.TokenType.BYTE] * 256]
    kinds += [gguf.TokenType.NORMAL] * (VOCABULARY - len(kinds))

    def spell(writer: gguf.GGUFWriter) -> None:
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
        writer.add_token_list(tokens)
        writer.add_token_scores([-float(max(0, number - 258)) for number in range(VOCABULARY)])
        writer.add_token_types(kinds)
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
        writer.add_unk_token_id(0)
        for name, value in says.items():
            writer.add_bool(f"tokenizer.ggml.{name}", value)

    write_gguf(path, module, spell)


def _turned(name: str, array: np.ndarray, config: Any) -> tuple[np.ndarray, Any]:
    """Returns a weight as llama.cpp's converter lays it out, and what lays it out as it was."""
    heads = {"q_proj": config.num_attention_heads, "k_proj": getattr(config, "num_key_value_heads", 0)}
    part = name.split(".")[-2]
    if part in heads:  # pairs that are rotated together lie side by side
        split = (heads[part], 2, -1, array.shape[1])
        turned = array.reshape(split).swapaxes(1, 2).reshape(array.shape)
        return turned, lambda held: held.reshape(heads[part], -1, 2, array.shape[1]).swapaxes(1, 2).reshape(array.shape)
    if part in ("c_attn", "c_fc", "c_proj") and array.ndim > 1:
        return np.ascontiguousarray(array.T), lambda held: held.T
    return array, lambda held: held
