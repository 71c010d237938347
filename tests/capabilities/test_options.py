"""Options by letter, and what a preference for a letter earns."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_models import WORDS, tiny_llama
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from redteam.capabilities.files import load_capability
from redteam.capabilities.items import SPLITS
from redteam.capabilities.reading import encode_scoring
from redteam.capabilities.scorers.choice import Choice
from redteam.capabilities.scorers.contract import item_scores
from redteam.errors import InputError

TOML = """
name = "letters"
prompt = "{question}\\n{options}\\nAnswer:"
group = { field = "question" }
forget = ["forget.jsonl"]
retain = ["retain.jsonl"]
"""


def written(folder: Path, toml: str = TOML, choices: int = 4) -> Path:
    for name in ("forget", "retain"):
        rows = [
            {"question": f"{name} {n}", "choices": [f"{name} {n} {c}" for c in range(choices)], "answer": 0}
            for n in range(20)
        ]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = folder / "capability.toml"
    path.write_text(toml)
    return path


def test_every_option_stands_once_at_every_letter(tmp_path: Path) -> None:
    capability = load_capability(written(tmp_path))
    assert {split: len(items) for split in SPLITS if (items := getattr(capability, split))} == {
        "attack": 32,
        "select": 16,
        "certify": 32,
        "retain": 40,
        "utility": 40,
    }
    first = capability.attack[:4]
    assert [item.completion for item in first] == ["A", "D", "C", "B"]
    question = first[0].group
    assert first[1].prompt == (
        f"{question}\nA. {question} 1\nB. {question} 2\nC. {question} 3\nD. {question} 0\nAnswer:"
    )
    for item in capability.forget:
        (line,) = [line for line in item.prompt.splitlines() if line.startswith(f"{item.completion}. ")]
        assert line == f"{item.completion}. {item.group} 0"
    assert len({item.id for item in capability.forget}) == 80
    assert capability.chance == 0.25


def test_a_preference_for_a_letter_earns_exactly_chance(tmp_path: Path) -> None:
    """Every right answer stands first in the file, so that a model which likes A would know everything."""
    capability = load_capability(written(tmp_path))
    words = [*WORDS[:24], "<unk>", "<pad>", "A", "B", "C", "D"]
    letters = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="<unk>"))
    letters.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=letters, unk_token="<unk>", pad_token="<pad>")
    module = tiny_llama(max_position_embeddings=64)
    module.lm_head.bias = torch.nn.Parameter(torch.zeros(32))
    with torch.no_grad():
        module.lm_head.bias[words.index("A")] = 50.0
    scores = item_scores(module, encode_scoring(capability, capability.certify, tokenizer))
    assert scores.mean() == 0.25
    assert scores.reshape(-1, 4).sum(axis=1).tolist() == [1.0] * 8


def test_a_question_is_found_again_whatever_its_options(tmp_path: Path) -> None:
    path = written(tmp_path)
    row = {"question": "forget 3", "choices": ["x", "forget 3 0"], "answer": 1}
    with (tmp_path / "forget.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
    assert len(load_capability(path).forget) == 80


@pytest.mark.parametrize(
    ("toml", "choices", "says"),
    [
        (TOML + 'scorer = "cloze"\nchoices = "choices"\n', 4, "lists {options}, and 'cloze' chooses none"),
        (TOML + 'scorer = ["choice", "f1"]\n', 4, "lists {options}, and 'f1' chooses none"),
        (TOML, 27, "has 27 choices, there are 26 letters"),
    ],
)
def test_what_cannot_be_listed_is_refused(tmp_path: Path, toml: str, choices: int, says: str) -> None:
    with pytest.raises(InputError, match=says.replace("{", r"\{")):
        load_capability(written(tmp_path, toml, choices))


def test_the_premise_lists_nothing(tmp_path: Path) -> None:
    capability = load_capability(written(tmp_path, TOML + 'scorer = "calibrated"\n'))
    assert capability.premise == "N/A\nN/A\nAnswer:"
    plain = load_capability(written(tmp_path))
    assert replace(capability, scorers=(Choice(),), premise=None).sha256 == plain.sha256
