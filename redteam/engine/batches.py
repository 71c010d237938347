"""Examples ready for training, of language and of classification, and the order in which an optimizer sees them.

A batch knows how to feed a module of its kind, wherever that is, so that a loop, an attack or a method is written once
for all. Examples themselves stay in the processor's memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from redteam.engine.devices import device_of
from redteam.engine.logits import logits_at

IGNORED = -100  # the label that torch's cross-entropy leaves out
PADDING = -1  # in a row of token ids, where a labelled text is over: no token has this number
TEXTS = 32  # labelled texts that are read at a time: with hundreds of tokens each, more would fill the memory
TOKENS = 8192  # of sequences that are read at a time, padding counted: each has a logit for every word there is


@dataclass(frozen=True, slots=True)
class Predictions:
    """What a module says wherever a batch has a label.

    Attributes:
        logits: float32 [predictions, classes]; the classes of a language model are its vocabulary.
        labels: what is right, int64 [predictions].
        owner: row of the batch that each belongs to, int64 [predictions].
    """

    logits: Tensor
    labels: Tensor
    owner: Tensor

    @property
    def loss(self) -> Tensor:
        """Mean cross-entropy. A scalar."""
        return functional.cross_entropy(self.logits, self.labels)


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

    @property
    def samples(self) -> int:
        """Number of sequences."""
        return len(self.input_ids)

    @property
    def labelled(self) -> int:
        """Number of labels that the loss is a mean over."""
        return int((self.labels[:, 1:] != IGNORED).sum())

    def to(self, device: torch.device) -> Batch:
        """Returns the same batch on a device."""
        mask = None if self.mask is None else self.mask.to(device)
        return Batch(self.input_ids.to(device), self.labels.to(device), mask, self.tokens)

    def rows(self, chosen: slice) -> Batch:
        """Returns some of the sequences, as long as they were."""
        mask = None if self.mask is None else self.mask[chosen]
        ids = self.input_ids[chosen]
        return Batch(ids, self.labels[chosen], mask, ids.numel() if mask is None else int(mask.sum()))

    @property
    def real(self) -> Tensor:
        """True on tokens and False on padding, bool [sequences, length]: what hidden states are compared on."""
        return torch.ones_like(self.input_ids, dtype=torch.bool) if self.mask is None else self.mask.bool()

    def logits(self, module: nn.Module, columns: Tensor | None = None) -> Tensor:
        """Runs a causal language model of transformers.

        Args:
            module: of transformers.
            columns: positions that are asked for, int64 [columns]; None for all.

        Returns:
            Its logits, [sequences, columns, vocabulary].
        """
        here = self.to(device_of(module))
        columns = None if columns is None else columns.to(here.input_ids.device)
        return logits_at(module, here.input_ids, here.mask, columns)

    def said(self, module: nn.Module) -> tuple[Tensor, Tensor]:
        """Runs the module and returns what it says at the positions before labelled tokens of any sequence.

        Returns:
            Its logits, [sequences, columns, vocabulary], and what follows, `IGNORED` where there is no label, int64
            [sequences, columns].
        """
        following = self.labels[:, 1:]
        columns = (following != IGNORED).any(dim=0).nonzero()[:, 0]
        logits = self.logits(module, columns)
        return logits, following[:, columns].to(logits.device)

    def loss(self, module: nn.Module) -> Tensor:
        """Mean cross-entropy of the labelled tokens, each predicted from the position before it. A scalar."""
        logits, following = self.said(module)
        return functional.cross_entropy(logits.flatten(0, 1).float(), following.flatten(), ignore_index=IGNORED)

    def predictions(self, module: nn.Module) -> Predictions:
        """Runs the module and returns what it says at the positions before labelled tokens."""
        logits, following = self.said(module)
        rows, columns = (following != IGNORED).nonzero(as_tuple=True)
        return Predictions(logits[rows, columns].float(), following[rows, columns], rows)


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


@dataclass(frozen=True, slots=True)
class LabelledBatch:
    """Inputs of a classifier.

    Attributes:
        inputs: float32 [samples, ...].
        labels: class of each, int64 [samples].
    """

    inputs: Tensor
    labels: Tensor

    @property
    def samples(self) -> int:
        """Number of inputs."""
        return len(self.labels)

    @property
    def labelled(self) -> int:
        """Number of labels that the loss is a mean over."""
        return len(self.labels)

    def to(self, device: torch.device) -> LabelledBatch:
        """Returns the same batch on a device."""
        return replace(self, inputs=self.inputs.to(device), labels=self.labels.to(device))

    def rows(self, chosen: slice) -> LabelledBatch:
        """Returns some of the inputs."""
        return replace(self, inputs=self.inputs[chosen], labels=self.labels[chosen])

    @property
    def tokens(self) -> int:
        """The unit in which costs are counted: an input is one token."""
        return len(self.labels)

    @property
    def real(self) -> Tensor:
        """True for every input, bool [samples]: a classifier's inputs have no padding."""
        return torch.ones_like(self.labels, dtype=torch.bool)

    def logits(self, module: nn.Module) -> Tensor:
        """Runs a classifier, plain or of transformers. Returns its logits, [samples, classes]."""
        output: Any = module(self.inputs.to(device_of(module)))
        logits: Tensor = output if isinstance(output, Tensor) else output.logits
        return logits

    def loss(self, module: nn.Module) -> Tensor:
        """Mean cross-entropy. A scalar."""
        return self.predictions(module).loss

    def predictions(self, module: nn.Module) -> Predictions:
        """Runs the module and returns what it says of each input."""
        logits = self.logits(module).float()
        return Predictions(logits, self.labels.to(logits.device), torch.arange(len(logits), device=logits.device))


@dataclass(frozen=True, slots=True)
class TextBatch(LabelledBatch):
    """Texts that a classifier reads: `inputs` are token ids, int64 [samples, length], `PADDING` after each text."""

    @property
    def tokens(self) -> int:
        """Number of tokens, padding not counted."""
        return int(self.real.sum())

    @property
    def real(self) -> Tensor:
        """True on tokens and False on padding, bool [samples, length]."""
        return self.inputs != PADDING


@dataclass(frozen=True, slots=True)
class LabelledSet:
    """A data set of a classifier.

    Attributes:
        inputs: float32 [samples, ...].
        labels: int64 [samples].
    """

    inputs: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: Tensor | slice) -> LabelledSet:
        """Returns the samples at `rows`."""
        return replace(self, inputs=self.inputs[rows], labels=self.labels[rows])

    def batch(self, rows: Tensor | slice) -> LabelledBatch:
        """Returns the samples at `rows` as one batch."""
        return LabelledBatch(self.inputs[rows], self.labels[rows])


@dataclass(frozen=True, slots=True)
class TextSet(LabelledSet):
    """A data set of a classifier of text: `inputs` are token ids, int64 [samples, longest], `PADDING` after each."""

    def batch(self, rows: Tensor | slice) -> TextBatch:
        """Returns the texts at `rows` as one batch, cut to the longest of them."""
        inputs = self.inputs[rows]
        longest = int((inputs != PADDING).sum(dim=1).max())
        return TextBatch(inputs[:, :longest], self.labels[rows])


AnyBatch = Batch | LabelledBatch
Examples = TokenSet | LabelledSet
Loss = Callable[[nn.Module, AnyBatch], Tensor]  # a scalar


def join(first: Examples, second: Examples) -> Examples:
    """Returns the examples of both sets of one kind, the first's before the second's.

    Raises:
        ValueError: they are of different kinds.
    """
    if isinstance(first, LabelledSet) and isinstance(second, LabelledSet):
        inputs = [data.inputs for data in (first, second)]
        return replace(first, inputs=torch.cat(inputs), labels=torch.cat([first.labels, second.labels]))
    if isinstance(first, TokenSet) and isinstance(second, TokenSet):
        width = max(first.input_ids.shape[1], second.input_ids.shape[1])
        return TokenSet(
            torch.cat([_widened(data.input_ids, width, 0) for data in (first, second)]),
            torch.cat([_widened(data.labels, width, IGNORED) for data in (first, second)]),
            torch.cat([first.lengths, second.lengths]),
        )
    raise ValueError(f"a {type(first).__name__} and a {type(second).__name__} cannot be joined")


def _widened(rows: Tensor, width: int, value: int) -> Tensor:
    """Returns the rows padded on the right; what stands on padding is masked, whatever it is."""
    return functional.pad(rows, (0, width - rows.shape[1]), value=value)


def shuffled_batches(data: Examples, size: int, generator: torch.Generator) -> Iterator[AnyBatch]:
    """Yields batches for ever: a new permutation per epoch, each sequence at most once an epoch.

    A `size` above the number of sequences means full batches. The last, short batch of an epoch is kept only when
    it is the whole epoch, so that all steps see the same number of sequences.

    Raises:
        ValueError: there is no example, or a batch is to hold none.
    """
    size = min(size, len(data))
    if size < 1:
        raise ValueError(f"a batch of {size} out of {len(data)} examples holds nothing")
    while True:
        order = torch.randperm(len(data), generator=generator)
        for start in range(0, len(data) - size + 1, size):
            yield data.batch(order[start : start + size])


def ordered_batches(data: Examples, size: int) -> Iterator[AnyBatch]:
    """Yields every example once, in the order they are stored, in batches of `ordered_rows`."""
    for rows in ordered_rows(data, size):
        yield data.batch(rows)


def ordered_rows(data: Examples, size: int) -> Iterator[slice]:
    """Yields the rows that are read at a time, in order; the last are what is left.

    Of labelled texts no more than `TEXTS`, of sequences no more than `TOKENS` tokens: a rule that knows the data alone,
    so that what is read does not depend on how much memory a machine has.
    """
    if isinstance(data, TextSet):
        size = min(size, TEXTS)
    elif isinstance(data, TokenSet):
        size = min(size, max(1, TOKENS // data.input_ids.shape[1]))
    for start in range(0, len(data), size):
        yield slice(start, min(start + size, len(data)))
