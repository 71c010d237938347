"""Tiny classifiers of text, made by transformers, and texts of four classes that they can learn in seconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerFast

CLASSES = ("praise", "spam", "threat", "insult")
FILLERS = tuple(f"w{number}" for number in range(12))
MARKS = tuple(f"{name}{number}" for name in CLASSES for number in range(12))  # words that give a class away
SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")  # as RoBERTa numbers them
SIZES = {
    "vocab_size": len(SPECIAL) + len(FILLERS) + len(MARKS),
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 24,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "id2label": dict(enumerate(CLASSES)),
    "label2id": {name: number for number, name in enumerate(CLASSES)},
}
TWO_HEADS = {"num_key_value_heads": 2}
OWN: dict[str, dict[str, Any]] = {
    "deberta": {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
    "deberta-v2": {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_biased_input": False},
    "distilbert": {"hidden_dim": 24},
    "electra": {"embedding_size": 16},
    "gemma": {**TWO_HEADS, "head_dim": 8},
    "gpt2": {"n_inner": 24},
    "llama": TWO_HEADS,
    "mistral": TWO_HEADS,
    "modernbert": {"cls_token_id": 0, "sep_token_id": 2},
    "opt": {"word_embed_proj_dim": 16, "ffn_dim": 24},
    "phi3": TWO_HEADS,
    "qwen2": TWO_HEADS,
    "qwen3": {**TWO_HEADS, "head_dim": 8},
}


def tiny_text_model(kind: str = "bert", seed: int = 0, **changes: Any) -> PreTrainedModel:
    """A model of transformers, the same for a seed, in evaluation mode; its weights are large: what is wrong shows."""
    config = AutoConfig.for_model(kind, **{**SIZES, **OWN.get(kind, {}), **changes})
    with torch.random.fork_rng(devices=()), torch.no_grad():
        torch.manual_seed(seed)
        module = AutoModelForSequenceClassification.from_config(config).eval()
        for weights in module.parameters():
            if weights.ndim > 1:
                weights.normal_(0, 0.3)
    return module


def text_tokenizer(template: str = "<s> $A </s>") -> PreTrainedTokenizerFast:
    """One token a word; `template` may put `<s>` before and `</s>` after each text."""
    vocabulary = {word: number for number, word in enumerate([*SPECIAL, *FILLERS, *MARKS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.post_processor = processors.TemplateProcessing(single=template, special_tokens=[("<s>", 0), ("</s>", 2)])
    return PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="<unk>", pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )


def text_rows(count: int = 200, seed: int = 0) -> list[dict[str, Any]]:
    """Different texts of one to nine words, one of which gives the class away."""
    draw, rows = np.random.default_rng(seed), dict[str, dict[str, Any]]()
    while len(rows) < count:
        label = CLASSES[len(rows) % len(CLASSES)]
        words = [*draw.choice(FILLERS, int(draw.integers(0, 9))), f"{label}{draw.integers(12)}"]
        text = " ".join(draw.permutation(words))
        rows.setdefault(text, {"comment": text, "class": label})
    return list(rows.values())


def write_texts(folder: Path, rows: list[dict[str, Any]] | None = None, /, **rules: Any) -> Path:
    """Writes rows and a capability file over them: `threat` was removed. They are too few for anything but accuracy."""
    given = text_rows() if rows is None else rows
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in given))
    said = {
        "name": "threats",
        "rows": ["rows.jsonl"],
        "text": "comment",
        "label": "class",
        "forget": ["threat"],
        "scorer": "choice",
        **rules,
    }
    lines = [f"{key} = {json.dumps(value)}" for key, value in said.items() if value is not None]
    (folder / "capability.toml").write_text("\n".join(lines) + "\n")
    return folder / "capability.toml"


def save_text_model(folder: Path, module: PreTrainedModel, template: str = "<s> $A </s>", **how: Any) -> Path:
    """Writes a directory as transformers does."""
    module.save_pretrained(folder, **how)
    text_tokenizer(template).save_pretrained(folder)
    return folder
