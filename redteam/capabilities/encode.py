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

WINDOW = 512  # tokens of documents that are read at a time


def encode_answers(tokenizer: PreTrainedTokenizerBase, items: Sequence[Item], *, whole_text: bool = False) -> TokenSet:
    """Encodes each prompt with its right answer; the loss covers the answer, or the whole text.

    Raises:
        InputError: the tokenizer leaves nothing of an answer, or no token before it.
    """
    pairs = boundaries(tokenizer, items, [(item.completion,) for item in items])
    starts = [1 if whole_text else start for start, _ in pairs]
    return TokenSet.from_sequences([full[0] for _, full in pairs], starts, pad_of(tokenizer))


def encode_documents(
    tokenizer: PreTrainedTokenizerBase, documents: Sequence[str], positions: int | None = None
) -> TokenSet:
    """Encodes documents one after the other, cut into windows of one length, with the loss on all tokens.

    Each document has the special tokens that the tokenizer gives a text; where it gives none, one that ends a text
    stands after it, if there is such a token. Each window begins with the token that a text begins with. No window is
    padded: the last one begins as early as it must to be as long as the others.

    Args:
        tokenizer: of the model.
        documents: at least one.
        positions: tokens that the model reads at most; None if it does not say.

    Raises:
        InputError: the tokenizer leaves less than two tokens of all of them.
    """
    read = [list(ids) for ids in tokenizer(list(documents), verbose=False)["input_ids"]]
    opens, ends = tokenizer.bos_token_id, tokenizer.eos_token_id
    start = [opens] if opens is not None and all(ids[:1] == [opens] for ids in read) else []
    if not start and ends is not None and not any(ids[-1:] == [ends] for ids in read):
        read = [[*ids, ends] for ids in read]
    stream = [token for ids in read for token in ids]
    if len(stream) < 2:
        raise InputError("the tokenizer leaves nothing of the corpus", "Give documents that the model can read")
    length = min(WINDOW, positions or WINDOW, len(stream))
    windows, at = list[list[int]](), 0
    while at < len(stream):
        begin = [] if stream[at : at + len(start)] == start else start
        if at + length - len(begin) > len(stream):
            begin, at = start, len(stream) - length + len(start)
        windows.append(begin + stream[at : at + length - len(begin)])
        at += length - len(begin)
    return TokenSet.from_sequences(windows, [1] * len(windows), pad_of(tokenizer))


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
