"""Scorers: items and a module in, one score in [0, 1] per item out."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from redteam.capabilities.encode import EncodedChoices
from redteam.capabilities.open_answers import EncodedAnswers, EncodedCalibrated, EncodedQuestions, written
from redteam.capabilities.reading import Encoded, EncodedInputs
from redteam.engine.accumulation import read_in_order
from redteam.engine.batches import TokenSet

SCORING_BATCH = 512  # at most, see `ordered_rows`: scores must not depend on how much memory a machine has

Scores = NDArray[np.float64]


class NotFinite(Exception):
    """The model's outputs are not finite, so there is nothing to score."""


def choice_scores(module: nn.Module, encoded: Encoded) -> Scores:
    """Scores 1 where the right choice is the likeliest continuation (of a classifier: class), 0 elsewhere.

    A tie that includes the right choice scores one over the size of the tie, so that a model which cannot tell
    the choices apart is at chance whatever their order. Answers that are not chosen score their likelihood, or how much
    of them the model writes.

    Raises:
        NotFinite: a likelihood is NaN or infinite.
    """
    return scores_of(choice_table(module, encoded), encoded)


def choice_table(module: nn.Module, encoded: Encoded) -> Tensor:
    """Returns what a module says of every choice, float32 [items, most choices]: log-likelihoods, or class logits.

    Of an answer that is not chosen, [items, 1]: the mean log-likelihood of its tokens; where the model writes,
    [items, 2]: the score beside it.

    Raises:
        NotFinite: a likelihood is NaN or infinite.
    """
    if isinstance(encoded, EncodedInputs):
        return class_logits(module, encoded)
    if isinstance(encoded, EncodedCalibrated):
        return _calibrated(module, encoded)
    if isinstance(encoded, EncodedAnswers):
        return _answer_loglikelihoods(module, encoded.rows)[:, None]
    if isinstance(encoded, EncodedQuestions):
        likely = _answer_loglikelihoods(module, encoded.rows)
        return torch.stack([likely, _written_scores(module, encoded)], dim=1)
    return choice_loglikelihoods(module, encoded)


def scores_of(table: Tensor, encoded: Encoded) -> Scores:
    """Returns the scores of a table of `choice_table`, see `choice_scores`."""
    if isinstance(encoded, EncodedAnswers):
        return table[:, 0].double().exp().numpy()
    if isinstance(encoded, EncodedQuestions):
        return table[:, 1].double().numpy()
    tied = table == table.max(dim=1, keepdim=True).values
    right = tied.gather(1, encoded.answers[:, None])[:, 0]
    return (right.double() / tied.sum(dim=1).double()).numpy()


def share_known(module: nn.Module, encoded: Encoded) -> float:
    """Mean score corrected for chance: 1 when every item is right, about 0 for blind guesses.

    Each item's score x with k choices counts as (x - 1/k) / (1 - 1/k); of an answer that is not chosen, as x.

    Raises:
        NotFinite: a likelihood is NaN or infinite.
    """
    scores = choice_scores(module, encoded)
    if isinstance(encoded, EncodedAnswers | EncodedQuestions):
        return float(scores.mean())
    chance = 1 / encoded.counts.double().numpy()
    return float(((scores - chance) / (1 - chance)).mean())


@torch.no_grad()
def class_logits(module: nn.Module, encoded: EncodedInputs) -> Tensor:
    """Returns a classifier's logits, float32 [items, classes].

    Raises:
        NotFinite: one is NaN or infinite.
    """
    data = encoded.examples
    logits = torch.cat(read_in_order(data, SCORING_BATCH, lambda rows: data.batch(rows).logits(module).float().cpu()))
    if not torch.isfinite(logits).all():
        raise NotFinite("the model's logits are not finite")
    return logits


@torch.no_grad()
def choice_loglikelihoods(module: nn.Module, encoded: EncodedChoices) -> Tensor:
    """Returns sum of log p(token) over each choice's tokens, float32 [items, most choices], -inf where none.

    Raises:
        NotFinite: a likelihood of a real choice is NaN or infinite.
    """
    width = int(encoded.counts.max())
    real = torch.arange(width) < encoded.counts[:, None]
    values = _single_token(module, encoded) if encoded.single is not None else _sums(module, encoded.rows)
    table = torch.full(real.shape, -torch.inf)
    table[real] = values
    if not torch.isfinite(values).all():
        raise NotFinite("the model's likelihoods are not finite")
    return table


def _calibrated(module: nn.Module, encoded: EncodedCalibrated) -> Tensor:
    asked = choice_loglikelihoods(module, encoded.asked)
    premises = choice_loglikelihoods(module, encoded.premises)
    return asked - premises.masked_fill(premises == -torch.inf, 0)


def _answer_loglikelihoods(module: nn.Module, rows: TokenSet) -> Tensor:
    """Returns the mean log p(token) over each row's labelled tokens, float32 [rows].

    Raises:
        NotFinite: one is NaN or infinite.
    """
    values = _sums(module, rows) / (rows.labels[:, 1:] >= 0).sum(dim=1)
    if not torch.isfinite(values).all():
        raise NotFinite("the model's likelihoods are not finite")
    return values


def _written_scores(module: nn.Module, encoded: EncodedQuestions) -> Tensor:
    parts = read_in_order(encoded.rows, SCORING_BATCH, lambda rows: written(module, encoded, rows))
    return torch.tensor(encoded.score([row for part in parts for row in part]))


def _single_token(module: nn.Module, encoded: EncodedChoices) -> Tensor:
    single = encoded.single
    assert single is not None

    def read(rows: slice) -> Tensor:
        columns, ends = encoded.ends[rows].unique(return_inverse=True)
        logits = encoded.rows.batch(rows).logits(module, columns)
        final = logits[torch.arange(len(logits)), ends].float().log_softmax(-1).cpu()
        choices = single[rows]
        return final.gather(1, choices.clamp(min=0))[choices >= 0]

    return torch.cat(read_in_order(encoded.rows, SCORING_BATCH, read))


@torch.no_grad()
def _sums(module: nn.Module, rows: TokenSet) -> Tensor:
    """Returns the sum of log p(token) over each row's labelled tokens, float32 [rows]."""

    def read(part: slice) -> Tensor:
        logits, labels = rows.batch(part).said(module)
        scored = labels >= 0
        words = logits[scored].float().log_softmax(-1)
        tokens = words.new_zeros(labels.shape)
        tokens[scored] = words.gather(1, labels[scored][:, None])[:, 0]
        return tokens.sum(dim=1).cpu()

    return torch.cat(read_in_order(rows, SCORING_BATCH, read))
