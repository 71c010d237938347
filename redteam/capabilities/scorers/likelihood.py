"""Right answers alone: how likely a language model finds them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from redteam.capabilities.encode import encode_answers
from redteam.capabilities.items import Item
from redteam.capabilities.scorers.contract import SCORING_BATCH, NotFinite, Scores
from redteam.engine.accumulation import read_in_order
from redteam.engine.batches import TokenSet

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@torch.no_grad()
def token_sums(module: nn.Module, rows: TokenSet) -> Tensor:
    """Returns the sum of log p(token) over each row's labelled tokens, float32 [rows]; it need not be finite."""

    def read(part: slice) -> Tensor:
        logits, labels = rows.batch(part).said(module)
        scored = labels >= 0
        words = logits[scored].float().log_softmax(-1)
        tokens = words.new_zeros(labels.shape)
        tokens[scored] = words.gather(1, labels[scored][:, None])[:, 0]
        return tokens.sum(dim=1).cpu()

    return torch.cat(read_in_order(rows, SCORING_BATCH, read))


def mean_loglikelihoods(module: nn.Module, rows: TokenSet) -> Tensor:
    """Returns the mean log p(token) over each row's labelled tokens, float32 [rows].

    Raises:
        NotFinite: one is NaN or infinite.
    """
    values = token_sums(module, rows) / (rows.labels[:, 1:] >= 0).sum(dim=1)
    if not torch.isfinite(values).all():
        raise NotFinite("the model's likelihoods are not finite")
    return values


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

    @property
    def tokens(self) -> tuple[TokenSet, ...]:
        """All that is read."""
        return (self.rows,)

    @property
    def chance(self) -> Scores:
        """Zero: a likelihood has no chance level."""
        return np.zeros(len(self))

    def table(self, module: nn.Module) -> Tensor:
        """Returns the mean log-likelihood of each item's labelled tokens, float32 [items, 1].

        Raises:
            NotFinite: one is NaN or infinite.
        """
        return mean_loglikelihoods(module, self.rows)[:, None]

    def scores(self, table: Tensor) -> Scores:
        """Returns the likelihoods."""
        return table[:, 0].double().exp().numpy()


def encode_likelihood(
    tokenizer: PreTrainedTokenizerBase, items: Sequence[Item], *, whole_text: bool = False
) -> EncodedAnswers:
    """Encodes the right answers: the score covers the answer, or the whole text.

    Raises:
        InputError: the tokenizer leaves nothing of an answer, or no token before it.
    """
    return EncodedAnswers(encode_answers(tokenizer, items, whole_text=whole_text))
