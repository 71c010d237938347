from __future__ import annotations

from collections import Counter
from itertools import islice

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import random_tokens

from redteam.engine.batches import IGNORED, TokenSet, shuffled_batches

PAD = 99
sequences_and_starts = st.lists(
    st.lists(st.integers(0, 50), min_size=1, max_size=8).flatmap(
        lambda tokens: st.tuples(st.just(tokens), st.integers(0, len(tokens)))
    ),
    min_size=1,
    max_size=12,
)


def test_a_batch_that_holds_nothing_is_refused() -> None:
    for data, size in ((random_tokens(5), 0), (random_tokens(5), -2), (random_tokens(5).take(slice(0, 0)), 4)):
        with pytest.raises(ValueError, match="holds nothing"):
            next(shuffled_batches(data, size, torch.Generator()))


def build(pairs) -> TokenSet:
    return TokenSet.from_sequences([tokens for tokens, _ in pairs], [start for _, start in pairs], PAD)


@given(sequences_and_starts)
def test_every_token_survives_and_the_rest_is_padding(pairs):
    data = build(pairs)
    assert len(data) == len(pairs)
    for row, (tokens, start) in enumerate(pairs):
        rest = data.input_ids.shape[1] - len(tokens)
        assert data.input_ids[row].tolist() == tokens + [PAD] * rest
        assert data.labels[row].tolist() == [IGNORED] * start + tokens[start:] + [IGNORED] * rest
    assert data.lengths.tolist() == [len(tokens) for tokens, _ in pairs]
    assert data.input_ids.dtype == data.labels.dtype == torch.int64


@given(sequences_and_starts, st.data())
def test_a_batch_is_its_rows_cut_to_the_longest(pairs, draw):
    data = build(pairs)
    rows = draw.draw(st.lists(st.integers(0, len(pairs) - 1), min_size=1, max_size=6))
    batch = data.batch(torch.tensor(rows))
    lengths = [len(pairs[row][0]) for row in rows]
    assert batch.input_ids.shape == batch.labels.shape == (len(rows), max(lengths))
    assert batch.tokens == sum(lengths)
    for line, row in enumerate(rows):
        assert batch.input_ids[line, : lengths[line]].tolist() == pairs[row][0]
    if len(set(lengths)) == 1:
        assert batch.mask is None
    else:
        assert batch.mask.tolist() == [[1] * n + [0] * (max(lengths) - n) for n in lengths]


@given(sequences_and_starts, st.integers(0, 3), st.integers(1, 5))
def test_take_and_slice_agree(pairs, start, count):
    data = build(pairs)
    rows = slice(start, start + count)
    wanted = pairs[rows]
    if not wanted:
        return
    taken = data.take(rows)
    assert [taken.input_ids[i, :n].tolist() for i, n in enumerate(taken.lengths.tolist())] == [t for t, _ in wanted]
    assert torch.equal(taken.batch(slice(None)).input_ids, data.batch(rows).input_ids)


def test_no_sequences_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        TokenSet.from_sequences([], [], PAD)


def test_a_start_for_every_sequence_is_required():
    with pytest.raises(ValueError, match="shorter"):
        TokenSet.from_sequences([[1], [2]], [0], PAD)


@given(count=st.integers(1, 17), size=st.integers(1, 20), seed=st.integers(0, 5))
def test_each_epoch_is_a_permutation_in_full_batches(count, size, seed):
    data = TokenSet.from_sequences([[i] for i in range(count)], [0] * count, PAD)
    batches = shuffled_batches(data, size, torch.Generator().manual_seed(seed))
    size = min(size, count)
    per_epoch = count // size
    for _ in range(3):
        seen = [i for batch in islice(batches, per_epoch) for i in batch.input_ids[:, 0].tolist()]
        assert len(seen) == per_epoch * size
        assert max(Counter(seen).values()) == 1  # none twice in an epoch


def test_order_depends_on_the_generator_alone_and_changes_by_epoch():
    data = TokenSet.from_sequences([[i] for i in range(40)], [0] * 40, PAD)

    def order(seed: int) -> list[int]:
        batches = shuffled_batches(data, 8, torch.Generator().manual_seed(seed))
        torch.rand(1)  # the global stream plays no part
        return [i for batch in islice(batches, 10) for i in batch.input_ids[:, 0].tolist()]

    assert order(1) == order(1)
    assert order(1) != order(2)
    assert order(1)[:40] != order(1)[40:]
    assert sorted(order(1)[:40]) == sorted(order(1)[40:]) == list(range(40))


def test_every_sequence_is_seen_in_the_long_run():
    """With 5 sequences in batches of 3 one batch an epoch is left out, and chance decides which."""
    data = TokenSet.from_sequences([[i] for i in range(5)], [0] * 5, PAD)
    batches = shuffled_batches(data, 3, torch.Generator().manual_seed(0))
    seen = Counter(i for batch in islice(batches, 500) for i in batch.input_ids[:, 0].tolist())
    # Each sequence is in an epoch's only batch with probability 3/5; 500 epochs, standard deviation 11.
    assert all(abs(seen[i] - 300) < 55 for i in range(5))
