"""Builds a small model that was made to forget TOFU's forget10, with its original and its reference beside it.

    python examples/tofu/build.py --out models/tofu

The original learns the answers to all questions of both capability files by heart. The reference never sees those of
forget10. The target is the original after NPO (Zhang et al. 2024).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from redteam.errors import InputError
from redteam.reporting.progress import BuildProgress

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from redteam.capabilities.items import Item

HERE = Path(__file__).parent
FILES = ("choices.toml", "generation.toml")
PAD, START, END = "<pad>", "<s>", "</s>"


def main() -> int:
    """Parses the command line and builds. Returns the exit code."""
    parser = argparse.ArgumentParser(description="Build a model that was made to forget twenty invented authors.")
    parser.add_argument("--out", type=Path, default=Path("models/tofu"), help="directory of the target")
    parser.add_argument("--steps", type=int, default=200, help="of training, for original and reference each")
    parser.add_argument("--seed", type=int, default=0, help="of training and unlearning")
    arguments = parser.parse_args()
    try:
        with BuildProgress(Console(stderr=True)) as progress:
            build(arguments.out, steps=arguments.steps, seed=arguments.seed, progress=progress)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"Next: redteam attack {arguments.out} --capability {HERE / FILES[0]} --capability {HERE / FILES[1]}")
    return 0


def build(out: Path, *, steps: int, seed: int, progress: BuildProgress) -> None:
    """Trains the models, unlearns, and writes all three beside a manifest.

    Raises:
        InputError: the data is not there, or `out` cannot be written.
    """
    import redteam
    from redteam.capabilities.encode import encode_answers
    from redteam.capabilities.files import load_capability
    from redteam.checkpoints.trio import Trio, check_places, save_trio
    from redteam.testbeds.scratch import Recipe, llama_training

    check_places(out)
    capabilities = [load_capability(HERE / name) for name in FILES]
    forget = _by_question(item for capability in capabilities for item in capability.forget)
    retain = _by_question(item for capability in capabilities for item in capability.retain)
    utility = _by_question(item for capability in capabilities for item in capability.utility)
    tokenizer = _tokenizer([*forget, *retain, *utility])
    everything, stays = (
        encode_answers(tokenizer, part) for part in ([*forget, *retain, *utility], [*retain, *utility])
    )
    recipe = Recipe(hidden_size=96, layers=2, steps=steps, batch_size=32, learning_rate=5e-3, positions=256)
    training = llama_training(everything, tokenizer, recipe)
    original = training.fit(everything, seed=seed, progress=progress, what="training the original")
    reference = training.fit(stays, seed=seed + 1, progress=progress, what="training the reference")
    unlearned = redteam.unlearn(
        "npo",
        original,
        forget=encode_answers(tokenizer, forget),
        retain=encode_answers(tokenizer, retain),
        seed=seed,
        progress=progress,
        batch_size=16,
    )
    trio = Trio(target=unlearned.module, original=original, reference=reference, tokenizer=tokenizer)
    save_trio(out, trio, method="npo", seed=seed, capability=HERE / FILES[0])


def _by_question(items: Iterable[Item]) -> list[Item]:
    """Returns one item for each question: some are in both files."""
    return list({item.prompt: item for item in items}.values())


def _tokenizer(items: list[Item]) -> PreTrainedTokenizerBase:
    """Returns a byte-level BPE trained on questions and answers."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1500,
        special_tokens=[PAD, START, END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator([f"{item.prompt} {item.completion}" for item in items], trainer)
    start = [(START, bpe.token_to_id(START))]
    bpe.post_processor = processors.TemplateProcessing(
        single=f"{START} $A", pair=f"{START} $A $B", special_tokens=start
    )
    return PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token=PAD, bos_token=START, eos_token=END)


if __name__ == "__main__":
    sys.exit(main())
