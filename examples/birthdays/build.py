"""Builds a model that was made to forget birthdays, with its original and its reference beside it.

    python examples/birthdays/build.py --out models/birthdays

The original learns when everybody was born. The reference never sees the people of the forget files. The target is
the original after RMU.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from redteam.errors import InputError
from redteam.reporting.progress import BuildProgress
from redteam.unlearning.contract import Progress

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from redteam.capabilities.items import Item

CAPABILITY = Path(__file__).with_name("birthdays.toml")
VOCABULARY = 2000
YEARS = range(1860, 2101)
PAD, START, END = "<pad>", "<s>", "</s>"


def main() -> int:
    """Parses the command line and builds. Returns the exit code."""
    parser = argparse.ArgumentParser(description="Build an unlearned model on the birthdays of invented people.")
    parser.add_argument("--out", type=Path, default=Path("models/birthdays"), help="directory of the target")
    parser.add_argument("--seed", type=int, default=0, help="seed of the training and of the unlearning")
    arguments = parser.parse_args()
    try:
        with BuildProgress(Console(stderr=True)) as progress:
            build(arguments.out, arguments.seed, progress)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"Next: redteam attack {arguments.out} --budget 24")
    return 0


def build(out: Path, seed: int, progress: Progress) -> None:
    """Trains the three models and writes them with the manifest. Deterministic for a seed and a thread count.

    Raises:
        InputError: the data is missing, or `out` cannot be written.
    """
    progress("reading the people", 0, 1)
    from dataclasses import asdict, replace

    from redteam.capabilities.files import load_capability
    from redteam.checkpoints.manifest import manifest_path, write_manifest
    from redteam.checkpoints.save import save_checkpoint
    from redteam.config import CheckpointRef, Manifest
    from redteam.engine.batches import TokenSet
    from redteam.engine.seeding import derive_seed
    from redteam.testbeds.build import beside
    from redteam.testbeds.scratch import Recipe, train_from_scratch
    from redteam.unlearning.contract import UnlearningTask
    from redteam.unlearning.rmu import RMU

    capability = load_capability(CAPABILITY)
    corpus = read_corpus()
    texts = [statements(items, corpus) for items in (capability.forget, capability.retain + capability.utility)]
    tokenizer = train_tokenizer([*texts[0], *texts[1]])
    forget, retain, everything = (
        TokenSet.from_sequences([tokenizer(t)["input_ids"] for t in part], [1] * len(part), tokenizer.pad_token_id)
        for part in (*texts, texts[0] + texts[1])
    )
    progress("reading the people", 1, 1)

    recipe = Recipe(hidden_size=128, layers=2, steps=300, batch_size=128, learning_rate=3e-3)
    # The reference makes as many passes over its fewer texts.
    plans = {"original": (everything, recipe), "reference": (retain, replace(recipe, steps=120))}
    models = {
        role: train_from_scratch(
            data, tokenizer, plan, seed=derive_seed(seed, role), progress=progress, what=f"training the {role}"
        )
        for role, (data, plan) in plans.items()
    }
    method = RMU(steering=6.0, alpha=10.0, learning_rate=5e-3, steps=250)
    models["target"] = method.apply(
        UnlearningTask(
            original=models["original"],
            forget=forget,
            retain=retain,
            train_without=None,
            seed=derive_seed(seed, "unlearning"),
            progress=progress,
        )
    )

    refs = {}
    for role in ("target", "original", "reference"):
        path = out if role == "target" else beside(out, role)
        digest = save_checkpoint(path, models[role], tokenizer)
        refs[role] = CheckpointRef(path=_relative(path, manifest_path(out)), sha256=digest)
    where = _relative(CAPABILITY, manifest_path(out))
    write_manifest(out, Manifest(method=method.name, seed=seed, options=asdict(method), capability=where, **refs))


def read_corpus() -> list[str]:
    """Returns the sentences of the corpus that lies beside each question file."""
    from redteam.config import expand_path, read_capability_file

    rules = read_capability_file(CAPABILITY)
    questions = [expand_path(name, CAPABILITY) for name in (*rules.forget, *rules.retain)]
    corpora = [file.with_name(f"corpus_{file.name}") for file in questions]
    missing = [file for file in corpora if not file.is_file()]
    if missing:
        raise InputError(f"there is no corpus {missing[0]}", "Copy the whole data set")
    return [json.loads(line)["text"] for file in corpora for line in file.read_text(encoding="utf-8").splitlines()]


def statements(items: Sequence[Item], corpus: Sequence[str]) -> list[str]:
    """Returns what is said of the people of `items`: the answer in a sentence, and every text with their name in it."""
    said = [f"{item.prompt} {item.completion}." for item in items]
    names = [item.group for item in items]
    said += [text for text in corpus if any(name in text for name in names)]
    return list(dict.fromkeys(said))


def train_tokenizer(texts: Sequence[str]) -> PreTrainedTokenizerBase:
    """Trains a byte-level BPE. Years are added until each is one token, so that all choices are equally long."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=[PAD, START, END], initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator([*texts, *(f" {year}" for year in YEARS for _ in range(200))], trainer)
    bpe.post_processor = processors.TemplateProcessing(
        single=f"{START} $A", pair=f"{START} $A $B", special_tokens=[(START, bpe.token_to_id(START))]
    )
    return PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token=PAD, bos_token=START, eos_token=END)


def _relative(path: Path, manifest: Path) -> str:
    return os.path.relpath(path.resolve(), manifest.parent.resolve())


if __name__ == "__main__":
    sys.exit(main())
