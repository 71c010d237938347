"""How a model is asked: the one place where a prompt and its answer are joined, for training and scoring alike."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from redteam.engine.deadline import AttackHung, within
from redteam.errors import InputError, one_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PATIENCE = 2.0  # seconds for a chat template, which is a program out of a checkpoint


def opening(tokenizer: PreTrainedTokenizerBase, prompt: str, *, chat: bool) -> str:
    """Returns what the model reads before the answer: the prompt, or a chat in which a user says it.

    Raises:
        InputError: the model has no chat template, or it fails.
    """
    if not chat:
        return prompt
    if not tokenizer.chat_template:
        raise InputError(
            "the capability asks in a chat, and the model's tokenizer has no chat template",
            "Leave `chat` out of the capability file, or give the model with its chat template",
        )
    said = [{"role": "user", "content": prompt}]
    try:
        text: Any = within(
            PATIENCE, lambda: tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True)
        )
    except (Exception, AttackHung) as error:  # a template is anybody's program, in a sandbox
        why = one_line(f"{type(error).__name__}: {error}")[:200]
        raise InputError(f"the model's chat template fails ({why})", "Correct it in the tokenizer's files") from error
    return str(text)


def answered(before: str, answer: str, *, chat: bool) -> str:
    """Returns an opening with an answer: a reply follows its template as it is, other text after a space."""
    return before + answer if chat else f"{before} {answer}"
