"""Answers in the model's own words: what it writes, compared with what is right."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import GenerationConfig, GenerationMixin

from redteam.capabilities.encode import encode_answers
from redteam.capabilities.items import Item
from redteam.capabilities.scorers.answers import Alike
from redteam.capabilities.scorers.contract import SCORING_BATCH, Scores
from redteam.capabilities.scorers.likelihood import mean_loglikelihoods
from redteam.engine.accumulation import read_in_order
from redteam.engine.batches import TokenSet
from redteam.engine.devices import device_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class EncodedQuestions:
    """Prompts that the model is to go on with, greedily, for as many tokens as the right answer has.

    It is not told when to stop, and need not stop by itself: models that were not trained to end an answer go on.

    Attributes:
        rows: prompt and right answer of each item; the labels cover the answer.
        completions: the right answers as text.
        alike: compares what is written with what is right.
        tokenizer: of the model.
    """

    rows: TokenSet
    completions: tuple[str, ...]
    alike: Alike
    tokenizer: PreTrainedTokenizerBase

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def starts(self) -> Tensor:
        """Where the answer begins, int64 [items]."""
        return (self.rows.labels >= 0).int().argmax(dim=1)

    @property
    def tokens(self) -> tuple[TokenSet, ...]:
        """All that is read; what is written is no longer."""
        return (self.rows,)

    @property
    def chance(self) -> Scores:
        """Zero: nothing is drawn."""
        return np.zeros(len(self))

    def table(self, module: nn.Module) -> Tensor:
        """Returns how likely each right answer is, and what is written scores, float32 [items, 2].

        The first is the mean log-likelihood of its tokens: it moves where no answer comes out right.

        Raises:
            NotFinite: a likelihood is NaN or infinite.
        """
        likely = mean_loglikelihoods(module, self.rows)
        parts = read_in_order(self.rows, SCORING_BATCH, lambda rows: written(module, self, rows))
        return torch.stack([likely, torch.tensor(self.compared([row for part in parts for row in part]))], dim=1)

    def scores(self, table: Tensor) -> Scores:
        """Returns what is written scores."""
        return table[:, 1].double().numpy()

    def compared(self, tokens: Sequence[Sequence[int]]) -> list[float]:
        """Returns what each item scores with the tokens that the model wrote.

        Nothing counts after a line break, or the token that ends a text.
        """
        end = self.tokenizer.eos_token_id
        until = [list(ids[: ids.index(end)]) if end in ids else list(ids) for ids in tokens]
        said = self.tokenizer.batch_decode(until, skip_special_tokens=True)
        return [
            self.alike(text.strip().partition("\n")[0], right)
            for text, right in zip(said, self.completions, strict=True)
        ]


def encode_questions(tokenizer: PreTrainedTokenizerBase, items: Sequence[Item], alike: Alike) -> EncodedQuestions:
    """Encodes prompts that the model is to answer in its own words.

    Raises:
        InputError: the tokenizer leaves nothing of an answer, or no token before it.
    """
    completions = tuple(item.completion for item in items)
    return EncodedQuestions(encode_answers(tokenizer, items), completions, alike, tokenizer)


@torch.no_grad()
def written(module: nn.Module, encoded: EncodedQuestions, rows: slice) -> list[list[int]]:
    """Lets a module go on with some prompts, greedily, for as many tokens as each right answer has, or to its end.

    Returns:
        The tokens of each item.
    """
    part, starts = encoded.rows.take(rows), encoded.starts[rows]
    hooked = any(inner._forward_hooks or inner._forward_pre_hooks for inner in module.modules())
    if hooked or not isinstance(module, GenerationMixin):
        return _written_anew(module, part, starts)
    said: dict[int, list[int]] = {}
    for chosen in _fitting(starts, part.lengths - starts, getattr(module.config, "max_position_embeddings", None)):
        texts = _generated(module, part.take(chosen), starts[chosen])
        said |= dict(zip(chosen.tolist(), texts, strict=True))
    return [said[row] for row in range(len(part))]


def _fitting(starts: Tensor, wanted: Tensor, positions: int | None) -> Iterator[Tensor]:
    """Yields groups of rows in which the longest prompt with the longest answer can be read, as each row can."""
    waiting = [wanted.argsort()]
    while waiting:
        rows = waiting.pop()
        if len(rows) > 1 and positions is not None and int(starts[rows].max() + wanted[rows].max()) > positions:
            waiting += rows.tensor_split(2)
        else:
            yield rows


def _generated(module: Any, part: TokenSet, starts: Tensor) -> list[list[int]]:
    """Writes with a cache of keys and values, through transformers. What a checkpoint asks for besides is not done."""
    wanted, longest = part.lengths - starts, int(starts.max())
    places = torch.arange(longest) - (longest - starts)[:, None]  # prompts end together
    mask = (places >= 0).long()
    ids = part.input_ids.gather(1, places.clamp(min=0)) * mask
    kept = module.generation_config
    module.generation_config = GenerationConfig()  # a checkpoint's may sample, or forbid words
    try:
        how = GenerationConfig(do_sample=False, max_new_tokens=int(wanted.max()), pad_token_id=0)
        here = device_of(module)
        said = module.generate(ids.to(here), attention_mask=mask.to(here), generation_config=how)[:, longest:]
    finally:
        module.generation_config = kept
    return [row[:count].tolist() for row, count in zip(said, wanted.tolist(), strict=True)]


def _written_anew(module: nn.Module, part: TokenSet, starts: Tensor) -> list[list[int]]:
    """Writes without a cache: every token is predicted from the whole text before it, as in scoring and training.

    Hooks that attacks put on positions see what they saw then, which they would not with a cache.
    """
    wanted, here = part.lengths - starts, device_of(module)
    ids = part.input_ids.clone()
    each = torch.arange(len(part))
    for step in range(int(wanted.max())):
        lengths, going = starts + step, step < wanted
        until = int(lengths[going].max())
        mask = (torch.arange(until) < lengths[going, None]).long()
        batch = ids[going, :until] * mask  # what follows the prompt is the right answer until it is written over
        logits = module(input_ids=batch.to(here), attention_mask=mask.to(here), use_cache=False).logits
        last = logits[torch.arange(len(batch)), lengths[going] - 1].float()
        ids[each[going], lengths[going]] = last.argmax(dim=-1).cpu()
    return [
        row[start : start + count].tolist()
        for row, start, count in zip(ids, starts.tolist(), wanted.tolist(), strict=True)
    ]
