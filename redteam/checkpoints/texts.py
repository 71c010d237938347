"""Text classifiers of transformers as plain modules: rows of token ids in, logits out."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from redteam.checkpoints.text_config import OFFSET, refuse_other_texts
from redteam.checkpoints.untrusted import TEXTS
from redteam.errors import InputError
from redteam.target import TextReader

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


SHORTEST = 8  # tokens: tokenizers put up to three marks around a text, and cannot cut what is shorter than these


class TextClassifier(nn.Module):
    """Masks what is padding, and returns logits.

    Args:
        model: of transformers; takes `input_ids` and `attention_mask`, [n, length]; its output has `logits`.
        padding: the token that the model takes for padding: causal models read the last one before it.
    """

    def __init__(self, model: nn.Module, padding: int) -> None:
        super().__init__()
        self.model = model
        self.config = model.config
        self.padding = padding
        # A text is read once: keys and values of its tokens are of no further use.
        cached = "use_cache" in inspect.signature(model.forward).parameters
        self.options: dict[str, Any] = {"use_cache": False} if cached else {}

    @property
    def head(self) -> nn.Module:
        """What gives the logits: the last submodule outside the body that owns weights."""
        model: Any = self.model
        body = set(model.base_model.modules())
        head: nn.Module = [p for p in model.modules() if p not in body and list(p.parameters(recurse=False))][-1]
        return head

    def forward(self, tokens: Tensor) -> Tensor:
        """Returns logits, float32 [n, classes], of token ids, int64 [n, length], negative after the end of a text."""
        real = tokens >= 0
        ids = torch.where(real, tokens, self.padding)
        logits: Tensor = self.model(input_ids=ids, attention_mask=real.long(), **self.options).logits
        return logits


def is_text_classifier(module: nn.Module) -> bool:
    """Returns whether a module is a text classifier of transformers."""
    return hasattr(module, "config") and type(module).__name__.endswith(TEXTS)


def read_as_text(
    module: nn.Module, tokenizer: PreTrainedTokenizerBase, where: str
) -> tuple[TextClassifier, TextReader]:
    """Returns a text classifier of transformers as a plain module, and how texts become what that takes.

    Args:
        module: of transformers.
        tokenizer: of the model.
        where: it came from, for messages.

    Raises:
        InputError: it is of a kind that is not known, does not choose one of several classes, or says of no token that
            it is padding.
    """
    held: Any = module
    config = held.config
    refuse_other_texts(
        {"model_type": config.model_type, "problem_type": config.problem_type, "num_labels": config.num_labels}, where
    )
    padding, vocabulary = getattr(config, "pad_token_id", None), held.get_input_embeddings().num_embeddings
    if type(padding) is not int or not 0 <= padding < vocabulary:
        raise InputError(
            f"{where} names no padding token (pad_token_id is {str(padding)[:40]})",
            f"Set pad_token_id in its config, to a token that ends no text{_suggested(tokenizer)}",
        )
    longest = _longest(getattr(config, "max_position_embeddings", None), config.model_type, padding, where)
    names = config.id2label
    classes = tuple(str(names.get(number, number)) for number in range(config.num_labels))
    reader = TextReader(tokenizer=tokenizer, vocabulary=vocabulary, longest=longest, classes=classes)
    return TextClassifier(module, padding), reader


def _longest(positions: Any, kind: str, padding: int, where: str) -> int | None:
    """Returns how many tokens a model reads at most; None where its config does not say."""
    if positions is None:
        return None
    longest = positions - (padding + 1 if kind in OFFSET else 0) if type(positions) is int else 0
    if longest < SHORTEST:
        raise InputError(f"{where} has {str(positions)[:40]} positions, too few for a text", "Correct it")
    return longest


def _suggested(tokenizer: PreTrainedTokenizerBase) -> str:
    token = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    return "" if token is None else f"; the tokenizer suggests {token}"
