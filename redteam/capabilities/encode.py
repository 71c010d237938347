"""Items in token form, for training on their answers, and where in a text an answer begins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from redteam.capabilities.chat import answered, opening
from redteam.capabilities.items import Item
from redteam.engine.batches import TokenSet
from redteam.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def encode_answers(tokenizer: PreTrainedTokenizerBase, items: Sequence[Item], *, whole_text: bool = False) -> TokenSet:
    """Encodes each prompt with its right answer; the loss covers the answer, or the whole text.

    Raises:
        InputError: the tokenizer leaves nothing of an answer, or no token before it.
    """
    pairs = boundaries(tokenizer, items, [(item.completion,) for item in items])
    starts = [1 if whole_text else start for start, _ in pairs]
    return TokenSet.from_sequences([full[0] for _, full in pairs], starts, pad_of(tokenizer))


def boundaries(
    tokenizer: PreTrainedTokenizerBase, items: Sequence[Item], choices: Sequence[tuple[str, ...]]
) -> list[tuple[int, list[list[int]]]]:
    """Returns for each item where its choices begin, and prompt + choice as tokens for each choice."""
    texts = []
    for item, offered in zip(items, choices, strict=True):
        before = opening(tokenizer, item.prompt, chat=item.chat)
        texts += [before, *(answered(before, choice, chat=item.chat) for choice in offered)]
    tokens = iter(tokens_of(tokenizer, texts, chat=any(item.chat for item in items)))
    return [
        (_boundary(item, offered, next(tokens), sequences := [next(tokens) for _ in offered]), sequences)
        for item, offered in zip(items, choices, strict=True)
    ]


def _boundary(item: Item, choices: tuple[str, ...], prompt: list[int], sequences: list[list[int]]) -> int:
    """Returns where the choices begin.

    A tokenizer may merge the end of a prompt with the start of a choice, so the boundary is the shortest prefix
    that the prompt alone has in common with all of them.
    """
    start = min(common_beginning(prompt, full) for full in sequences)
    if start == 0:
        raise InputError(
            f"{item.id}: no token stands before the choice {choices[0]!r}",
            "Use a longer prompt, or a tokenizer that starts a text with a token of its own",
        )
    for choice, full in zip(choices, sequences, strict=True):
        if len(full) <= start:
            raise InputError(f"{item.id}: the tokenizer leaves nothing of the choice {choice!r}", "Correct that choice")
    return start


def tokens_of(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], *, chat: bool = False) -> list[list[int]]:
    """Returns the tokens of each text, without one that closes it; one call costs as much as a hundred texts.

    Args:
        tokenizer: of the model.
        texts: what the model reads.
        chat: whether they come from a chat template, which has put the special tokens there already.
    """
    end = tokenizer.eos_token_id
    # Masks are not asked for: to make them takes longer than to find the tokens.
    found = tokenizer(
        list(texts), add_special_tokens=not chat, return_attention_mask=False, return_token_type_ids=False
    )["input_ids"]
    if chat:  # what ends a message may be what ends a text; an answer comes after it
        return [list(ids) for ids in found]
    # Some tokenizers close every text with an end token; it would stand between a prompt and its choice.
    return [list(ids[:-1] if ids and ids[-1] == end else ids) for ids in found]


def common_beginning(left: Sequence[int], right: Sequence[int]) -> int:
    """Returns how many tokens two texts begin with alike."""
    for position, (a, b) in enumerate(zip(left, right, strict=False)):
        if a != b:
            return position
    return min(len(left), len(right))


def pad_of(tokenizer: PreTrainedTokenizerBase) -> int:
    """Returns the token that fills batches up; it is masked, so that any does where there is none."""
    pad = tokenizer.pad_token_id
    return int(pad) if pad is not None else 0
