"""Which classifiers of text are opened, told from their configs. No torch: `inspect` asks too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from redteam.errors import InputError

# Whose tests show that padding changes nothing: some others attend to it, or read the text from an end of their own.
KINDS = (
    "bert", "camembert", "deberta", "deberta-v2", "distilbert", "electra", "gemma", "gpt2",
    "gpt_neox", "llama", "mistral", "modernbert", "mpnet", "opt", "phi", "phi3", "qwen2", "qwen3", "roberta",
    "xlm-roberta",
)  # fmt: skip
# Whose first position is the number after their padding token's.
OFFSET = ("camembert", "mpnet", "roberta", "xlm-roberta")
SINGLE = "single_label_classification"


def refuse_other_texts(data: Mapping[str, Any], where: str) -> None:
    """Refuses configs of kinds that are not known, and of heads that do not choose one of several classes.

    Raises:
        InputError: it is one of these.
    """
    kind = data.get("model_type")
    if kind not in KINDS:
        raise InputError(
            f"{where} is of a text classifier of model_type {str(kind)[:40]!r}",
            f"Give one of these: {', '.join(KINDS)}",
        )
    problem, names = data.get("problem_type"), data.get("id2label")
    count = len(names) if isinstance(names, dict) else data.get("num_labels", 2)
    if problem not in (None, SINGLE):
        raise InputError(
            f"{where} is of a classifier for {str(problem)[:40]!r}", "Give one whose texts are of one class each"
        )
    if count == 1:
        raise InputError(f"{where} has one label: it predicts a number", "Give a classifier of two or more classes")
