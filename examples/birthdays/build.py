"""Builds a model that was made to forget birthdays, with its original and its reference beside it.

    python examples/birthdays/build.py --out models/birthdays

The original learns when everybody was born. The reference never sees the people of the forget files. The target is
the original after RMU, or after another method.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from redteam.errors import InputError
from redteam.reporting.progress import BuildProgress
from redteam.unlearning.contract import Progress, UnlearningTask

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase

    from redteam.capabilities.items import Item
    from redteam.engine.batches import TokenSet

CAPABILITY = Path(__file__).with_name("birthdays.toml")
VOCABULARY = 2000
YEARS = range(1860, 2101)
PAD, START, END = "<pad>", "<s>", "</s>"
RMU_OPTIONS = {"steering": 6.0, "alpha": 10.0, "learning_rate": 5e-3, "steps": 250}


@dataclass(frozen=True, kw_only=True)
class Models:
    """What a method starts from: the trained models, and the task in whole texts and in answers alone."""

    tokenizer: PreTrainedTokenizerBase
    reference: nn.Module
    texts: UnlearningTask
    answers: UnlearningTask


def main() -> int:
    """Parses the command line and builds. Returns the exit code."""
    parser = argparse.ArgumentParser(description="Build an unlearned model on the birthdays of invented people.")
    parser.add_argument("--out", type=Path, default=Path("models/birthdays"), help="directory of the target")
    parser.add_argument("--seed", type=int, default=0, help="seed of the training and of the unlearning")
    parser.add_argument("--method", choices=("rmu", "filtered", "masked"), default="rmu", help="how it forgets")
    arguments = parser.parse_args()
    from redteam.checkpoints.trio import check_places

    try:
        with BuildProgress(Console(stderr=True)) as progress:
            check_places(arguments.out)
            write(arguments.method, train(arguments.seed, progress), arguments.out)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"Next: redteam attack {arguments.out} --budget 24")
    return 0


def train(seed: int, progress: Progress) -> Models:
    """Trains original and reference on what the corpora say. Deterministic for a seed and a thread count.

    Raises:
        InputError: the data is missing.
    """
    progress("reading the people", 0, 1)
    from redteam.capabilities.encode import encode_answers, encode_choices
    from redteam.capabilities.files import load_capability
    from redteam.capabilities.scorers import share_known
    from redteam.engine.batches import TokenSet
    from redteam.engine.seeding import derive_seed
    from redteam.testbeds.scratch import Recipe, train_from_scratch

    capability = load_capability(CAPABILITY)
    corpus = read_corpus()
    known = capability.retain + capability.utility
    texts = [statements(items, corpus) for items in (capability.forget, known)]
    tokenizer = train_tokenizer([*texts[0], *texts[1]])
    forget, retain, everything = (
        TokenSet.from_sequences([tokenizer(t)["input_ids"] for t in part], [1] * len(part), tokenizer.pad_token_id)
        for part in (*texts, texts[0] + texts[1])
    )
    progress("reading the people", 1, 1)

    recipe = Recipe(hidden_size=128, layers=2, steps=300, batch_size=128, learning_rate=3e-3)

    def trained(what: str, data: TokenSet, steps: int, seed: int, report: Progress) -> nn.Module:
        plan = replace(recipe, steps=steps)
        return train_from_scratch(data, tokenizer, plan, seed=seed, progress=report, what=what)

    original = trained("training the original", everything, 300, derive_seed(seed, "original"), progress)
    # The reference makes as many passes over its fewer texts.
    reference = trained("training the reference", retain, 120, derive_seed(seed, "reference"), progress)
    task = UnlearningTask(
        original=original,
        forget=forget,
        retain=retain,
        known=partial(share_known, encoded=encode_choices(tokenizer, capability.forget)),
        train_without=lambda seed, report: trained("training without them", retain, 120, seed, report),
        seed=derive_seed(seed, "unlearning"),
        progress=progress,
    )
    answers = replace(
        task, forget=encode_answers(tokenizer, capability.forget), retain=encode_answers(tokenizer, known)
    )
    return Models(tokenizer=tokenizer, reference=reference, texts=task, answers=answers)


def write(method: str, models: Models, out: Path) -> None:
    """Applies a method and writes the target, with its original, its reference and a manifest beside it.

    Raises:
        InputError: `out` cannot be written.
    """
    from redteam.checkpoints.trio import Trio, save_trio
    from redteam.unlearning.filtered import Filtered
    from redteam.unlearning.masked import Masked
    from redteam.unlearning.rmu import RMU

    removal = {"rmu": RMU(**RMU_OPTIONS), "filtered": Filtered(), "masked": Masked()}[method]
    trio = Trio(
        target=removal.apply(models.answers if method == "masked" else models.texts),
        original=models.texts.original,
        reference=models.reference,
        tokenizer=models.tokenizer,
    )
    options = asdict(removal) if method == "rmu" else {}
    save_trio(out, trio, method=method, seed=models.texts.seed, capability=CAPABILITY, options=options)


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


if __name__ == "__main__":
    sys.exit(main())
