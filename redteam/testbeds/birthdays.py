"""Testbed `birthdays`: invented people in texts that nobody here wrote, exactly as the files stand.

It needs the public data set; the environment variable REDTEAM_DATA names the folder that holds `rtt/birthdays`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from redteam.capabilities.files import capability_of
from redteam.capabilities.items import Capability, Item
from redteam.config.capability import CapabilityFile, read_capability_file
from redteam.config.files import expand_path
from redteam.engine.batches import TokenSet
from redteam.engine.training import Training
from redteam.errors import InputError
from redteam.testbeds.contract import Option

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

RULES = Path(f"{__file__[:-3]}.toml")
VOCABULARY = 2000
YEARS = range(1860, 2101)
PAD, START, END = "<pad>", "<s>", "</s>"
STEPS, BATCH_SIZE, LEARNING_RATE = 300, 128, 3e-3


class Birthdays:
    """Some 740 people with one birthday each, and the texts that mention them; 443 people are forgotten."""

    name = "birthdays"
    version = 1
    goal = (
        "the birth years of 740 people in real text files (set REDTEAM_DATA); 443 people are forgotten; chance is 1/4"
    )
    paper = (
        "Deeb & Roger 2024, Do Unlearning Methods Remove Information from Language Model Weights? (arXiv 2410.08827)"
    )
    kinds = "language"
    settings: Mapping[str, Mapping[str, Option]] = {
        # Three people in five are forgotten: compared with all data, no weight could matter ten times as much to them.
        "ssd": {"full": "retain"},
        # As on facts: what is learned in default steps comes to rest in the slice too, and is cut off with it.
        "sgtm": {"retain_share": 1.0},
        "rmu": {"steering": 6.0, "alpha": 10.0, "learning_rate": 5e-3, "steps": 250},
    }

    def capability(self, seed: int) -> Capability:
        """Reads the question files and splits the people by `seed`.

        Raises:
            InputError: REDTEAM_DATA is not set, or the data is not there.
        """
        rules = _rules()
        return capability_of(rules.model_copy(update={"seed": seed}), RULES)

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Trains a byte-level BPE on the texts. Years are added until each is one token: all choices are as long.

        The people and their texts are the same for every seed, and so is the tokenizer.

        Raises:
            InputError: REDTEAM_DATA is not set, or the data is not there.
        """
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
        from transformers import PreTrainedTokenizerFast

        texts = sorted({text for text, _ in _statements(self.capability(0))})
        bpe = Tokenizer(models.BPE())
        bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        bpe.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=[PAD, START, END],
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        bpe.train_from_iterator([*texts, *(f" {year}" for year in YEARS for _ in range(200))], trainer)
        bpe.post_processor = processors.TemplateProcessing(
            single=f"{START} $A", pair=f"{START} $A $B", special_tokens=[(START, bpe.token_to_id(START))]
        )
        return PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token=PAD, bos_token=START, eos_token=END)

    def training(self, capability: Capability) -> tuple[Training, tuple[str, ...]]:
        """Returns the training of a Llama model of 0.9 M parameters on all texts, the loss on every token of them."""
        from redteam.testbeds.scratch import Recipe, llama_training

        tokenizer = self.tokenizer()
        statements = _statements(capability)
        tokens = tokenizer([text for text, _ in statements])["input_ids"]
        data = TokenSet.from_sequences(tokens, [1] * len(tokens), tokenizer.pad_token_id)
        recipe = Recipe(hidden_size=128, layers=2, steps=STEPS, batch_size=BATCH_SIZE, learning_rate=LEARNING_RATE)
        return llama_training(data, tokenizer, recipe), tuple(person for _, person in statements)

    def measures(self, capability: Capability) -> Mapping[str, tuple[Item, ...]]:
        """Returns nothing more: score and utility say it all."""
        return {}


def _statements(capability: Capability) -> list[tuple[str, str]]:
    """Returns texts with the person each speaks of: the answers in a sentence, and every text with a name in it.

    A text that names several people speaks of one who is forgotten, if there is one among them: no model that is
    not to know them may see it.
    """
    items = capability.forget + capability.retain + capability.utility  # in this order names are looked for
    said = {f"{item.prompt} {item.completion}.": item.group for item in items}
    people = dict.fromkeys(item.group for item in items)
    for text in _corpus():
        person = next((name for name in people if name in text), None)
        if person is not None:
            said.setdefault(text, person)
    return list(said.items())


def _rules() -> CapabilityFile:
    rules = read_capability_file(RULES)
    assert isinstance(rules, CapabilityFile)
    return rules


def _corpus() -> Sequence[str]:
    """Returns the sentences of the corpus that lies beside each question file."""
    rules = _rules()
    questions = [expand_path(name, RULES) for name in (*rules.forget, *rules.retain)]
    corpora = [file.with_name(f"corpus_{file.name}") for file in questions]
    missing = [file for file in corpora if not file.is_file()]
    if missing:
        raise InputError(f"there is no corpus {missing[0]}", "Copy the whole data set")
    return [json.loads(line)["text"] for file in corpora for line in file.read_text(encoding="utf-8").splitlines()]
