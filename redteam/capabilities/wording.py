"""How a language model is asked: all that an adversary who can only send it text has to work with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from redteam.capabilities.chat import answered, opening
from redteam.capabilities.encode import common_beginning, encode_answers, tokens_of
from redteam.capabilities.items import Item
from redteam.engine.batches import TokenSet

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Rewrite = Callable[[str], str]


def as_it_is(prompt: str) -> str:
    """Returns the prompt: how a model is asked until an attack says otherwise."""
    return prompt


@dataclass(kw_only=True, slots=True)
class Wording:
    """The items that an adversary knows, and how every item is asked.

    Attributes:
        attack: items of the attack split, in the order of the trial.
        retain: items of what must stay.
        tokenizer: of the model.
        positions: tokens that the model reads at most; None if it does not say.
        rewrite: makes of a prompt what the model is asked instead. The harness asks every held-out item through it. An
            attack sets it, to another function whenever it asks differently; a function of the prompt alone, that
            ends where the answer begins.
    """

    attack: tuple[Item, ...]
    retain: tuple[Item, ...]
    tokenizer: PreTrainedTokenizerBase
    positions: int | None = None
    rewrite: Rewrite = as_it_is

    def encoded(self, items: Sequence[Item], rewrite: Rewrite) -> TokenSet:
        """Returns items asked in some way, with the loss on their answers.

        Raises:
            InputError: the tokenizer leaves nothing of an answer, or no token before it.
        """
        return encode_answers(self.tokenizer, asked(items, rewrite))

    def longest(self, items: Sequence[Item], rewrite: Rewrite) -> int:
        """Returns how many tokens the longest of these items has when asked in some way, with its longest choice."""
        texts = [
            answered(self._opening(item.prompt), max(item.choices, key=len), chat=self.chat)
            for item in asked(items, rewrite)
        ]
        return max(len(tokens) for tokens in tokens_of(self.tokenizer, texts, chat=self.chat))

    def place_of(self, before: str, text: str, after: str) -> tuple[list[int], slice]:
        """Returns the tokens of `before text after`, and which of them are the text's.

        Texts are joined by spaces, empty ones left out. A token that holds an end of the text and some of what stands
        beside it is not counted as the text's, nor is what a chat template puts behind the prompt.
        """
        # The text ends where it could go on in another way. Of a chat that is seen by letting something else follow:
        # with nothing after it the same text would be compared with itself, the end of the template included.
        other = "" if after or not self.chat else before or text
        prompts = [(before, text, after), (before, text, other), (before,)]
        read = [self._opening(" ".join(part for part in parts if part)) for parts in prompts]
        whole, until, left = tokens_of(self.tokenizer, read, chat=self.chat)
        return whole, slice(common_beginning(left, whole), common_beginning(until, whole))

    @property
    def chat(self) -> bool:
        """Whether prompts are what a user says in a chat."""
        return any(item.chat for item in self.attack)

    def _opening(self, prompt: str) -> str:
        return opening(self.tokenizer, prompt, chat=self.chat)


def asked(items: Sequence[Item], rewrite: Rewrite) -> tuple[Item, ...]:
    """Returns the items with rewritten prompts.

    Raises:
        TypeError: what a prompt was rewritten to is no text.
    """
    rewritten = [rewrite(item.prompt) for item in items]
    for prompt in rewritten:
        if not isinstance(prompt, str):
            raise TypeError(f"a prompt was rewritten to a {type(prompt).__name__}")
    return tuple(replace(item, prompt=prompt) for item, prompt in zip(items, rewritten, strict=True))
