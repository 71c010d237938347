"""Token sequences ready for training, and the order in which an optimizer sees them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

IGNORED = -100  # the label that torch's cross-entropy leaves out


@dataclass(frozen=True, slots=True)
class Batch:
    """Padded sequences.

    Attributes:
        input_ids: token ids, int64 [sequences, length], padded on the right.
        labels: the token each position must predict is the *next* label; `IGNORED` where there is no loss.
            int64 [sequences, length].
        mask: 1 on tokens and 0 on padding, int64 [sequences, length]; None when there is no padding, which lets
            attention take its faster causal path.
        tokens: number of tokens, padding not counted.
    """

    input_ids: Tensor
    labels: Tensor
    mask: Tensor | None
    tokens: int


@dataclass(frozen=True, slots=True)
class TokenSet:
    """A data set in token form, kept as one tensor so that a batch is an index.

    Attributes:
        input_ids: int64 [sequences, longest], padded on the right.
        labels: int64 [sequences, longest], `IGNORED` where there is no loss.
        lengths: tokens of each sequence, int64 [sequences].
    """

    input_ids: Tensor
    labels: Tensor
    lengths: Tensor

    def __len__(self) -> int:
        return len(self.lengths)

    def take(self, rows: Tensor | slice) -> TokenSet:
        """Returns the sequences at `rows`."""
        return TokenSet(self.input_ids[rows], self.labels[rows], self.lengths[rows])

    def batch(self, rows: Tensor | slice) -> Batch:
        """Returns the sequences at `rows`, cut to the longest of them."""
        lengths = self.lengths[rows]
        longest, total = int(lengths.max()), int(lengths.sum())
        ids, labels = self.input_ids[rows, :longest], self.labels[rows, :longest]
        mask = None
        if total < longest * len(lengths):
            mask = (torch.arange(longest) < lengths[:, None]).long()
        return Batch(ids, labels, mask, total)

    @staticmethod
    def from_sequences(sequences: Sequence[Sequence[int]], loss_from: Sequence[int], pad: int) -> TokenSet:
        """Pads sequences; the loss covers each sequence's tokens from its `loss_from` on.

        Raises:
            ValueError: there are no sequences.
        """
        if not sequences:
            raise ValueError("a token set needs at least one sequence")
        lengths = torch.tensor([len(s) for s in sequences])
        ids = torch.full((len(sequences), int(lengths.max())), pad)
        labels = torch.full_like(ids, IGNORED)
        for row, (tokens, start) in enumerate(zip(sequences, loss_from, strict=True)):
            ids[row, : len(tokens)] = torch.tensor(tokens)
            labels[row, start : len(tokens)] = torch.tensor(tokens[start:])
        return TokenSet(ids, labels, lengths)


def shuffled_batches(data: TokenSet, size: int, generator: torch.Generator) -> Iterator[Batch]:
    """Yields batches for ever: a new permutation per epoch, each sequence once an epoch.

    A `size` above the number of sequences means full batches. The last, short batch of an epoch is kept only when
    it is the whole epoch, so that all steps see the same number of sequences.
    """
    size = min(size, len(data))
    while True:
        order = torch.randperm(len(data), generator=generator)
        for start in range(0, len(data) - size + 1, size):
            yield data.batch(order[start : start + size])
