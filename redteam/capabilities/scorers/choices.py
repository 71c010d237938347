"""Choices of a language model, one of them right: in token form, and their likelihoods."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from redteam.capabilities.encode import boundaries, pad_of
from redteam.capabilities.items import Item
from redteam.capabilities.scorers.contract import SCORING_BATCH, NotFinite, Scores
from redteam.capabilities.scorers.likelihood import token_sums
from redteam.engine.accumulation import read_in_order
from redteam.engine.batches import TokenSet

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# (what is said of each choice [items, most choices], the right ones [items]) -> scores in [0, 1], float64 [items]
Rule = Callable[[Tensor, Tensor], Tensor]


def likeliest(table: Tensor, answers: Tensor) -> Tensor:
    """Scores 1 where the right choice is the likeliest, 0 elsewhere.

    A tie that includes the right choice scores one over the size of the tie, so that a model which cannot tell the
    choices apart is at chance whatever their order.
    """
    tied = table == table.max(dim=1, keepdim=True).values
    right = tied.gather(1, answers[:, None])[:, 0]
    return right.double() / tied.sum(dim=1).double()


def chance_of_choices(items: Sequence[Item]) -> list[float]:
    """Returns how likely a blind draw from each item's choices is right."""
    return [1 / len(item.choices) for item in items]


@dataclass(frozen=True, slots=True)
class EncodedChoices:
    """Every choice of every item, as a language model reads it.

    Attributes:
        rows: one sequence per item when `single` is given, else one per (item, choice); the labels cover the
            choice's tokens.
        single: token of each choice, int64 [items, most choices], -1 where an item has fewer; only when every
            choice of every item is one token, so that one forward pass per item is enough.
        owner: item of each row, int64 [rows].
        counts: choices of each item, int64 [items].
        answers: index of the right choice, int64 [items].
        ends: position whose logits predict the answer's first token, int64 [rows].
        rule: makes scores of likelihoods.
    """

    rows: TokenSet
    single: Tensor | None
    owner: Tensor
    counts: Tensor
    answers: Tensor
    ends: Tensor
    rule: Rule = likeliest

    def __len__(self) -> int:
        return len(self.answers)

    @property
    def text(self) -> EncodedChoices:
        """These choices, which are text."""
        return self

    @property
    def tokens(self) -> tuple[TokenSet, ...]:
        """All that is read."""
        return (self.rows,)

    @property
    def chance(self) -> Scores:
        """One over the number of choices."""
        return 1 / self.counts.double().numpy()

    def table(self, module: nn.Module) -> Tensor:
        """Returns sum of log p(token) over each choice's tokens, float32 [items, most choices], -inf where none.

        Raises:
            NotFinite: a likelihood of a real choice is NaN or infinite.
        """
        values = token_sums(module, self.rows) if self.single is None else self._of_single_tokens(module, self.single)
        if not torch.isfinite(values).all():
            raise NotFinite("the model's likelihoods are not finite")
        real = torch.arange(int(self.counts.max())) < self.counts[:, None]
        table = torch.full(real.shape, -torch.inf)
        table[real] = values
        return table

    def scores(self, table: Tensor) -> Scores:
        """Returns the scores of likelihoods, by the rule."""
        return self.rule(table, self.answers).numpy()

    @torch.no_grad()
    def _of_single_tokens(self, module: nn.Module, single: Tensor) -> Tensor:
        def read(rows: slice) -> Tensor:
            columns, ends = self.ends[rows].unique(return_inverse=True)
            logits = self.rows.batch(rows).logits(module, columns)
            final = logits[torch.arange(len(logits)), ends].float().log_softmax(-1).cpu()
            choices = single[rows]
            return final.gather(1, choices.clamp(min=0))[choices >= 0]

        return torch.cat(read_in_order(self.rows, SCORING_BATCH, read))


def encode_choices(tokenizer: PreTrainedTokenizerBase, items: Sequence[Item]) -> EncodedChoices:
    """Encodes the choices of each item after its prompt.

    Raises:
        InputError: the tokenizer leaves nothing of a choice, or no token before it.
    """
    encoded = boundaries(tokenizer, items, [item.choices for item in items])
    counts = torch.tensor([len(item.choices) for item in items])
    answers = torch.tensor([item.answer for item in items])
    pad = pad_of(tokenizer)
    if all(len(full) == start + 1 for start, sequences in encoded for full in sequences):
        prompts = [sequences[0][:start] for start, sequences in encoded]
        rows = TokenSet.from_sequences(prompts, [len(p) for p in prompts], pad)
        single = torch.full((len(items), int(counts.max())), -1)
        for row, (start, sequences) in enumerate(encoded):
            single[row, : len(sequences)] = torch.tensor([full[start] for full in sequences])
        return EncodedChoices(rows, single, torch.arange(len(items)), counts, answers, rows.lengths - 1)
    starts = torch.tensor([start for start, sequences in encoded for _ in sequences])
    flat = [full for _, sequences in encoded for full in sequences]
    rows = TokenSet.from_sequences(flat, starts.tolist(), pad)
    return EncodedChoices(
        rows, None, torch.repeat_interleave(torch.arange(len(items)), counts), counts, answers, starts - 1
    )
