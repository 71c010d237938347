"""A batch that does not fit into memory gives the step that it would have given."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from tiny_classifiers import tiny_classifier_target, tiny_points
from tiny_models import random_tokens, tiny_capability, tiny_llama, tiny_target, weights_of
from tiny_tasks import random_data, random_labelled, tiny_classifier, tiny_model_of
from torch import nn

from redteam.capabilities.reading import encode_scoring
from redteam.engine.accumulation import Accumulation, out_of_memory, read_in_order
from redteam.engine.batches import IGNORED, LabelledBatch
from redteam.engine.cost import Ledger, Meter
from redteam.engine.devices import SCATTERED, WORKING, room_for
from redteam.engine.loop import Diverged, fine_tune, mean_loss, train
from redteam.engine.optimizers import Tuning


def short_of_memory(module: nn.Module, most: int, sizes: list[int], error: type[Exception] | None = None) -> None:
    """Lets the module's forward pass fail for more than `most` examples, and notes how many it was given."""

    def refuse(_module: nn.Module, args: tuple[torch.Tensor, ...], given: dict[str, torch.Tensor]) -> None:
        count = len(given["input_ids"] if "input_ids" in given else args[0])
        sizes.append(count)
        if count > most:
            raise (error or torch.OutOfMemoryError)("DefaultCPUAllocator: can't allocate memory")

    module.register_forward_pre_hook(refuse, with_kwargs=True)


@pytest.mark.parametrize("kind", ["language", "classifier"])
@pytest.mark.parametrize("most", [1, 3, 6])
def test_the_gradient_is_that_of_the_whole_batch(kind: str, most: int) -> None:
    whole, parted = tiny_model_of(kind), tiny_model_of(kind)
    batch, sizes = random_data(kind, 12, seed=3).batch(slice(None)), []
    expected = Accumulation().backward(whole, batch, mean_loss, divisible=True)
    short_of_memory(parted, most, sizes)
    found = Accumulation().backward(parted, batch, mean_loss, divisible=True)
    assert found == pytest.approx(expected, rel=1e-5)
    for left, right in zip(whole.parameters(), parted.parameters(), strict=True):
        assert torch.allclose(left.grad, right.grad, rtol=1e-4, atol=1e-6)  # type: ignore[arg-type]
    assert sizes[0] == 12
    assert max(sizes[-(12 // most) :]) <= most


def test_a_whole_batch_that_fits_is_one_pass_to_the_bit() -> None:
    plain, ours = tiny_llama(), tiny_llama()
    batch = random_tokens(6).batch(slice(None))
    mean_loss(plain, batch).backward()
    Accumulation().backward(ours, batch, mean_loss, divisible=True)
    assert all(torch.equal(p.grad, q.grad) for p, q in zip(plain.parameters(), ours.parameters(), strict=True))  # type: ignore[arg-type]


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, RuntimeError])
def test_training_goes_on_with_the_same_steps(error: type[Exception]) -> None:
    data, tuning, sizes = random_labelled(16), Tuning(learning_rate=1e-2, steps=5), []
    plain, short = tiny_classifier(), tiny_classifier()
    batches = lambda: iter([data.batch(slice(None))] * 5)  # noqa: E731
    expected = train(plain, batches(), tuning)
    short_of_memory(short, 4, sizes, error)
    found = train(short, batches(), tuning)
    assert found.spent == expected.spent
    assert found.losses == pytest.approx(expected.losses, rel=1e-4)
    assert sizes == [16, 8] + [4] * 20  # what did not fit is not tried again
    for name, weights in weights_of(plain).items():
        assert torch.allclose(weights, weights_of(short)[name], atol=1e-5)


def test_what_is_trained_besides_the_module_is_tried_anew_as_well() -> None:
    """Halves of 8 were added up before the second half of 4 does not fit: what the first gave must not stay."""
    data = random_labelled(16)

    def gradient(most: int, refused_from: int) -> torch.Tensor:
        module, calls = tiny_classifier(), []
        added = nn.Parameter(torch.zeros_like(data.inputs[0]))

        def shift(_module: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
            calls.append(len(args[0]))
            if len(args[0]) > most or len(calls) == refused_from:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return (args[0] + added,)

        module.register_forward_pre_hook(shift)
        seen: list[torch.Tensor] = []

        @contextmanager
        def around(_optimizer: torch.optim.Optimizer) -> Iterator[None]:
            assert added.grad is not None
            seen.append(added.grad.clone())
            yield

        batches, tuning = iter([data.batch(slice(None))]), Tuning(learning_rate=1e-2, steps=1)
        list(fine_tune(module, batches, tuning, Ledger(parameters=1), parameters=[added], around=around))
        return seen[0]

    assert torch.allclose(gradient(8, refused_from=3), gradient(16, refused_from=0), atol=1e-6)


def test_one_example_that_does_not_fit_is_an_error() -> None:
    module = tiny_classifier()
    short_of_memory(module, 0, [])
    with pytest.raises(torch.OutOfMemoryError):
        Accumulation().backward(module, random_labelled(4).batch(slice(None)), mean_loss, divisible=True)


def test_a_loss_of_its_own_is_not_divided() -> None:
    """Nobody knows what the loss of half a batch means to it."""
    module, sizes = tiny_classifier(), []
    short_of_memory(module, 2, sizes)
    running = fine_tune(
        module,
        iter([random_labelled(4).batch(slice(None))]),
        Tuning(learning_rate=1e-2, steps=1),
        Ledger(parameters=1),
        loss=lambda live, batch: mean_loss(live, batch).square(),
    )
    with pytest.raises(torch.OutOfMemoryError):
        next(running)
    assert sizes == [4]


def test_other_errors_are_not_taken_for_it() -> None:
    module, sizes = tiny_classifier(), []
    short_of_memory(module, 2, sizes)
    wrong = LabelledBatch(torch.zeros(2, 5), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(RuntimeError, match="shape"):
        Accumulation().backward(module, wrong, mean_loss, divisible=True)
    assert sizes == [2]
    assert not out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


def test_a_part_without_a_label_is_left_out_and_the_mean_is_over_labels() -> None:
    data = random_tokens(4, longest=6, shortest=6)
    data.labels[:2] = IGNORED
    whole, parted = tiny_llama(), tiny_llama()
    batch = data.batch(slice(None))
    assert batch.labelled == int((data.labels[:, 1:] != IGNORED).sum())
    expected = Accumulation().backward(whole, batch, mean_loss, divisible=True)
    assert Accumulation(size=2).backward(parted, batch, mean_loss, divisible=True) == pytest.approx(expected)
    for left, right in zip(whole.parameters(), parted.parameters(), strict=True):
        assert torch.allclose(left.grad, right.grad, rtol=1e-4, atol=1e-6)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [None, 2])
def test_a_loss_that_is_not_finite_ends_the_step(size: int | None) -> None:
    module = tiny_classifier()
    with torch.no_grad():
        module[0].weight.fill_(float("nan"))
    batch = random_labelled(4).batch(slice(None))
    assert not torch.isfinite(torch.tensor(Accumulation(size).backward(module, batch, mean_loss, divisible=True)))
    with pytest.raises(Diverged, match="the training loss is nan at step 0"):
        train(module, iter([batch]), Tuning(learning_rate=1e-2, steps=1))


@pytest.mark.parametrize("most", [1, 5, 7, 100])
def test_what_is_read_is_all_there_is_in_its_order(most: int) -> None:
    """However many rows fit, each is read once, and no more than fit."""
    data, read = random_labelled(23), list[slice]()

    def look(rows: slice) -> list[int]:
        assert rows.stop <= len(data)
        if rows.stop - rows.start > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        read.append(rows)
        return list(range(rows.start, rows.stop))

    assert [row for part in read_in_order(data, 10, look) for row in part] == list(range(23))
    assert all(0 < rows.stop - rows.start <= most for rows in read)


def test_what_fails_otherwise_is_not_read_again() -> None:
    asked: list[slice] = []

    def look(rows: slice) -> None:
        asked.append(rows)
        raise RuntimeError("CUDA out of memory" if len(asked) > 1 else "mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1"):
        read_in_order(random_labelled(4), 4, look)
    assert len(asked) == 1


@pytest.mark.parametrize("kind", ["language", "classifier"])
def test_scores_are_those_of_a_machine_with_more_memory(kind: str) -> None:
    target, capability = (
        (tiny_target(), tiny_capability()) if kind == "language" else (tiny_classifier_target(), tiny_points())
    )
    encoded, sizes = encode_scoring(capability, capability.certify, target.tokenizer), list[int]()
    expected = encoded.table(target.module)
    short_of_memory(target.module, 3, sizes)
    assert torch.allclose(encoded.table(target.module), expected, atol=1e-6)
    assert max(sizes) > 3
    assert sum(size for size in sizes if size <= 3) == len(encoded)


@pytest.mark.parametrize("tied", [True, False])
def test_an_attack_needs_no_more_memory_than_is_asked_for(tied: bool) -> None:
    """Of a batch in parts of one sequence, which is the least that a step can be; and hardly less than that."""
    module = tiny_llama(vocab_size=4000, hidden_size=64, num_hidden_layers=4, tie_word_embeddings=tied)
    data, tuning = random_tokens(2), Tuning(learning_rate=1e-3, steps=2, clip=1.0)
    sizes = [parameter.numel() * 4 for parameter in module.parameters()]
    needed = 4 * sum(sizes) + 3 * max(sizes)
    assert room_for(module, trained=True) == pytest.approx(SCATTERED * needed + WORKING)
    short_of_memory(module, 1, [])
    with Meter() as meter:
        train(module, iter([data.batch(slice(None))] * 2), tuning)
    assert meter.cost.peak_bytes <= needed + 10 * max(sizes) / 100
    assert meter.cost.peak_bytes >= (0.95 if tied else 0.7) * needed
