"""Answers that are not chosen: how likely the right one is, and what the model writes by itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, GenerationMixin

from redteam.capabilities.answers import exact_match, f1
from redteam.capabilities.encode import EncodedChoices, boundaries, pad_of
from redteam.capabilities.items import Item
from redteam.engine.batches import TokenSet
from redteam.engine.devices import device_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class EncodedCalibrated:
    """Choices, and the same choices after a prompt that asks nothing.

    The score compares log p(choice | prompt) - log p(choice | premise), so that a choice which is likely whatever is
    asked has no advantage. Source: Holtzman et al. 2021 (arXiv 2104.08315), PMI-DC, with the content-free premise of
    Zhao et al. 2021 (arXiv 2102.09690).

    Attributes:
        asked: the choices after their prompts.
        premises: the choices of the same items after the premise.
    """

    asked: EncodedChoices
    premises: EncodedChoices

    def __len__(self) -> int:
        return len(self.asked)

    @property
    def answers(self) -> Tensor:
        """Index of the right choice, int64 [items]."""
        return self.asked.answers

    @property
    def counts(self) -> Tensor:
        """Choices of each item, int64 [items]."""
        return self.asked.counts


@dataclass(frozen=True, slots=True)
class EncodedAnswers:
    """Right answers after their prompts. An item scores the likelihood of its labelled tokens, by geometric mean.

    Source: "probability" of TOFU (Maini et al. 2024, arXiv 2401.06121, section 2.2.2): P(a | q)^(1 / |a|).

    Attributes:
        rows: one sequence per item; the labels cover the answer, or all but the first token.
    """

    rows: TokenSet

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True, slots=True)
class EncodedQuestions:
    """Prompts that the model is to go on with, greedily, for as many tokens as the right answer has.

    It is not told when to stop, and need not stop by itself: models that were not trained to end an answer go on.

    Attributes:
        rows: prompt and right answer of each item; the labels cover the answer.
        starts: where the answer begins, int64 [items].
        completions: the right answers as text.
        scorer: how the two are compared, "exact" or "f1".
        tokenizer: of the model.
    """

    rows: TokenSet
    starts: Tensor
    completions: tuple[str, ...]
    scorer: str
    tokenizer: PreTrainedTokenizerBase

    def __len__(self) -> int:
        return len(self.rows)

    def score(self, tokens: Sequence[Sequence[int]]) -> list[float]:
        """Returns what each item scores with the tokens that the model wrote.

        Nothing counts after a line break, or the token that ends a text.
        """
        alike = exact_match if self.scorer == "exact" else f1
        end = self.tokenizer.eos_token_id
        until = [list(ids[: ids.index(end)]) if end in ids else list(ids) for ids in tokens]
        said = self.tokenizer.batch_decode(until, skip_special_tokens=True)
        return [
            alike(text.strip().partition("\n")[0], right) for text, right in zip(said, self.completions, strict=True)
        ]


def encode_likelihood(
    tokenizer: PreTrainedTokenizerBase, items: Sequence[Item], *, whole_text: bool = False
) -> EncodedAnswers:
    """Encodes the right answers: the score covers the answer, or the whole text.

    Raises:
        InputError: the tokenizer leaves nothing of an answer, or no token before it.
    """
    return EncodedAnswers(_answered(tokenizer, items, whole_text=whole_text)[0])


def encode_questions(tokenizer: PreTrainedTokenizerBase, items: Sequence[Item], scorer: str) -> EncodedQuestions:
    """Encodes prompts that the model is to answer in its own words.

    Raises:
        InputError: as `encode_likelihood`.
    """
    rows, starts = _answered(tokenizer, items)
    completions = tuple(item.completion for item in items)
    return EncodedQuestions(rows, torch.tensor(starts), completions, scorer, tokenizer)


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


def _answered(
    tokenizer: PreTrainedTokenizerBase, items: Sequence[Item], *, whole_text: bool = False
) -> tuple[TokenSet, list[int]]:
    """Returns each prompt with its right answer, and where the answers begin."""
    pairs = boundaries(tokenizer, items, [(item.completion,) for item in items])
    starts = [start for start, _ in pairs]
    labelled = [1] * len(starts) if whole_text else starts
    return TokenSet.from_sequences([full[0] for _, full in pairs], labelled, pad_of(tokenizer)), starts
