"""Weight interpolation: exact at both ends, known on planted lines, and nothing is left behind."""

from __future__ import annotations

import copy
from dataclasses import replace
from statistics import median
from typing import Any

import numpy as np
import pytest
import torch
from tiny_classifiers import tiny_mlp, tiny_points, trained_mlp
from tiny_models import tiny_llama, word_tokenizer
from tiny_tasks import hooks_of
from tiny_views import knowing_llama, near, text_capability, view_of
from torch import nn

from redteam.capabilities.encode import encode_answers
from redteam.capabilities.items import SPLITS, Capability
from redteam.capabilities.reading import encode_scoring
from redteam.capabilities.scorers.contract import NotFinite, item_scores
from redteam.engine.batches import shuffled_batches
from redteam.engine.loop import train
from redteam.engine.optimizers import Tuning
from redteam.errors import InputError
from redteam.probes.connectivity import MULTIPLES, Connectivity, Interpolated, barrier, distance
from redteam.probes.contract import ProbeReading

PLACES = ["a=-0.5", "a=0", "a=0.25", "a=0.5", "a=0.75", "a=1", "a=1.5"]
CAPABILITY = text_capability()


@pytest.fixture(scope="module")
def original() -> nn.Module:
    return knowing_llama(CAPABILITY)


def read(module: nn.Module, original: nn.Module, capability: Capability = CAPABILITY, seed: int = 0) -> ProbeReading:
    return Connectivity().read(view_of(module, capability, original=original, seed=seed))


def scores(module: nn.Module, capability: Capability, split: str) -> np.ndarray:
    tokenizer = None if capability.inputs is not None else word_tokenizer()
    return item_scores(module, encode_scoring(capability, getattr(capability, split), tokenizer))


def moved_copy(module: nn.Module, size: float, seed: int = 1) -> nn.Module:
    """A copy with noise of a share of each array's own spread on every weight."""
    other, draw = copy.deepcopy(module), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weights in other.parameters():
            weights.add_(size * weights.std() * torch.randn(weights.shape, generator=draw))
    return other


def says(module: nn.Module) -> torch.Tensor:
    encoded = encode_scoring(CAPABILITY, CAPABILITY.certify, word_tokenizer())
    with torch.no_grad():
        return encoded.rows.batch(slice(0, 40)).logits(module)


def test_both_ends_are_the_models_themselves_bit_for_bit(original: nn.Module) -> None:
    module = tiny_llama(3, hidden_size=32, intermediate_size=64)
    assert torch.equal(says(Interpolated(module, original, 0.0)), says(module))
    assert torch.equal(says(Interpolated(module, original, 1.0)), says(original))
    naive = copy.deepcopy(module)  # start + 1 (end - start) is not the end: the test above can fail
    with torch.no_grad():
        for weights, ends in zip(naive.parameters(), original.parameters(), strict=True):
            weights.add_(ends - weights)
    assert not torch.equal(says(naive), says(original))
    reading = read(module, original)
    assert list(reading.by_layer) == PLACES
    assert reading.by_layer["a=0"] == scores(module, CAPABILITY, "select").mean()
    assert reading.by_layer["a=1"] == scores(original, CAPABILITY, "select").mean() == 1
    assert set(reading.correct) <= {0, 0.25, 1 / 3, 0.5, 1}


@pytest.mark.parametrize("a", MULTIPLES)
def test_between_the_ends_weights_are_the_formulas(original: nn.Module, a: float) -> None:
    """A copy whose weights were computed by numpy, in double precision."""
    module, other = moved_copy(original, 1.0), copy.deepcopy(original)
    end = {name: weights.detach().numpy().astype(np.float64) for name, weights in original.named_parameters()}
    with torch.no_grad():
        for name, weights in other.named_parameters():
            start = module.get_parameter(name).numpy().astype(np.float64)
            weights.copy_(torch.from_numpy(start + a * (end[name] - start)))
    assert torch.allclose(says(Interpolated(module, original, a)), says(other), atol=1e-3, rtol=1e-4)
    expected = scores(other, CAPABILITY, "select").mean()
    assert read(module, original).by_layer[f"a={a:g}"] == pytest.approx(expected)


def line(start: float, end: float) -> tuple[nn.Module, nn.Module, Capability]:
    """Two linear classifiers that say 0 of every class but the right one: of that `start`, and `end` in the original.

    A linear model is linear in its weights, so at a it says start + a (end - start).
    """
    inputs = np.eye(4, dtype=np.float32)[np.arange(130) % 4]
    points = tiny_points()
    parts: dict[str, Any] = {
        split: tuple(replace(item, answer=(item.row or 0) % 4) for item in getattr(points, split)) for split in SPLITS
    }
    models = []
    for value in (start, end):
        model = nn.Linear(4, 4, bias=False).eval()
        with torch.no_grad():
            model.weight.copy_(value * torch.eye(4))
        models.append(model)
    return models[0], models[1], Capability(name="line", **parts, inputs=inputs)


@pytest.mark.parametrize(
    ("start", "end", "place"),
    [(-1.0, 9.0, "a=0.25"), (-1.0, 2.0, "a=0.5"), (-1.0, 0.8, "a=0.75"), (-1.0, 0.2, "a=1"), (-9.0, 0.1, "a=1")],
)
def test_the_place_where_half_has_returned_is_known_on_a_straight_line(start: float, end: float, place: str) -> None:
    """The right answer wins where start + a (end - start) > 0."""
    module, original, capability = line(start, end)
    reading = read(module, original, capability)
    assert reading.by_layer == {f"a={a:g}": float(start + a * (end - start) > 0) for a in MULTIPLES}
    assert reading.layer == place
    assert reading.notes["a"] == float(place[2:])
    assert set(reading.correct) == {1.0}
    assert reading.notes["distance"] == pytest.approx(abs(start - end) / abs(end))


def test_half_of_the_way_is_enough() -> None:
    """Two of four classes return early and two late: at a = 0.25 half is back, and certify is read there."""
    module, original, capability = line(-1.0, 9.0)
    with torch.no_grad():
        for late in (2, 3):
            original.weight[late, late] = 0.1
    reading = read(module, original, capability)
    assert reading.by_layer["a=0.25"] == 0.5
    assert reading.layer == "a=0.25"
    assert reading.correct == tuple(float(item.answer < 2) for item in capability.certify)


def test_where_nothing_was_removed_there_is_no_way_back() -> None:
    same = line(1.0, 1.0)
    assert read(*same).layer == "a=0.25"  # as good as the original, which it is
    worse = line(1.0, -9.0)
    reading = read(*worse)
    assert reading.layer == "a=1"
    assert set(reading.correct) == {0.0}


def test_the_original_itself_is_no_way_off(original: nn.Module) -> None:
    for module in (original, copy.deepcopy(original)):
        reading = read(module, original)
        assert reading.notes == {"a": 0.25, "distance": 0.0, "barrier": 0.0}
        assert {place: reading.by_layer[place] for place in PLACES} == dict.fromkeys(PLACES, 1.0)
        assert reading.correct == tuple(scores(original, CAPABILITY, "certify").tolist())


def test_distance_against_numpy(original: nn.Module) -> None:
    module = moved_copy(original, 0.3)
    flat = [np.concatenate([p.detach().numpy().ravel() for p in m.parameters()]) for m in (module, original)]
    expected = np.linalg.norm(flat[0] - flat[1]) / np.linalg.norm(flat[1])
    assert distance(module, original) == pytest.approx(expected, rel=1e-4)
    assert 0.1 < distance(module, original) < 0.5
    assert distance(original, module) != distance(module, original)  # relative to the original's norm


def test_tied_weights_count_once_and_are_followed_where_only_one_model_ties_them() -> None:
    tied, untied, other = (
        tiny_llama(1, tie_word_embeddings=True),
        tiny_llama(2),
        tiny_llama(3, tie_word_embeddings=True),
    )
    flat = [np.concatenate([p.detach().numpy().ravel() for p in m.parameters()]) for m in (tied, other)]
    assert distance(tied, other) == pytest.approx(np.linalg.norm(flat[0] - flat[1]) / np.linalg.norm(flat[1]), rel=1e-4)
    for start, end in ((tied, untied), (untied, tied)):
        assert torch.equal(says(Interpolated(start, end, 1.0)), says(end))
        assert torch.equal(says(Interpolated(start, end, 0.0)), says(start))
    assert tied.lm_head.weight is tied.model.embed_tokens.weight


def test_the_barrier_is_the_largest_drop_below_the_line() -> None:
    assert barrier({0.0: 0.4, 0.25: 0.5, 0.5: 0.3, 0.75: 0.75, 1.0: 0.8}) == pytest.approx(0.3)
    assert barrier({0.0: 0.4, 0.5: 0.9, 1.0: 0.8}) == 0
    assert barrier({0.0: 0.4, 0.5: 0.6, 1.0: 0.8}) == pytest.approx(0, abs=1e-12)


def reordered(module: nn.Module) -> nn.Module:
    """The same function with its hidden units in reverse order, which is far away along a straight line."""
    other = copy.deepcopy(module)
    first, second, third = (part for part in other.modules() if isinstance(part, nn.Linear))
    with torch.no_grad():
        for before, after in ((first, second), (second, third)):
            before.weight.copy_(before.weight.flip(0))
            before.bias.copy_(before.bias.flip(0))
            after.weight.copy_(after.weight.flip(1))
    return other


def test_a_barrier_stands_between_two_orders_of_one_model_and_none_in_one_basin() -> None:
    """Both pairs are as good at their ends."""
    capability = tiny_points()
    original = trained_mlp(capability, forget=True)
    far, close = read(reordered(original), original, capability), read(moved_copy(original, 0.05), original, capability)
    assert far.by_layer["a=0"] == far.by_layer["a=1"] == close.by_layer["a=0"] == 1
    assert far.notes["barrier"] > 0.1
    assert close.notes["barrier"] == 0
    assert far.notes["distance"] > 5 * close.notes["distance"] > 0


def test_the_barrier_is_of_what_must_stay() -> None:
    """It is read on the utility items and on no others."""
    module, original, capability = line(-9.0, 0.1)
    assert read(module, original, capability).notes["barrier"] == 0.75  # all wrong at 0.75, where the line is at 0.75
    parts = {name: getattr(capability, name) for name in ("name", "attack", "select", "certify", "retain", "inputs")}
    single = Capability(**parts, utility=tuple(i for i in capability.utility if i.answer == 0))
    with torch.no_grad():
        module.weight[0, 0] = 1.0
    assert read(module, original, single).notes["barrier"] == 0


class Normed(nn.Module):
    """A classifier with running statistics, a counter, and a table of integers."""

    def __init__(self, variance: float) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(0)
            self.norm, self.head = nn.BatchNorm1d(6), nn.Linear(6, 4)
        self.register_buffer("order", torch.arange(4))
        with torch.no_grad():
            self.norm.running_var.fill_(variance)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(inputs.flatten(1)))[:, self.order]


def test_buffers_are_followed_too_and_what_is_not_finite_beyond_an_end_is_left_out() -> None:
    """Away from an original of variance 9, a model of variance 1 has -3, of which there is no root."""
    capability = tiny_points()
    module, original = Normed(1.0).eval(), Normed(9.0).eval()
    original.order = original.order.flip(0)
    reading = read(module, original, capability)
    assert list(reading.by_layer) == PLACES[1:]
    inputs = torch.from_numpy(capability.inputs)
    with torch.no_grad():
        assert torch.equal(Interpolated(module, original, 1.0)(inputs), original(inputs))
        middle = Normed(5.0).eval()
        assert torch.allclose(Interpolated(module, original, 0.25)(inputs), Normed(3.0).eval()(inputs), atol=1e-6)
        assert torch.allclose(Interpolated(module, original, 0.5)(inputs), middle(inputs).flip(1), atol=1e-6)


def test_a_model_that_is_broken_is_not_a_score(original: nn.Module) -> None:
    module = copy.deepcopy(original)
    with torch.no_grad():
        module.lm_head.weight[0] = torch.nan
    with pytest.raises(NotFinite):
        read(module, original)


def test_the_control_is_at_chance_where_everything_returns(original: nn.Module) -> None:
    module = moved_copy(original, 2.0)
    readings = [read(module, original, seed=seed) for seed in range(6)]
    assert sum(readings[0].correct) > 0.5 * len(readings[0].correct)
    assert near([score for reading in readings for score in reading.control], CAPABILITY.chance)
    assert len({reading.control for reading in readings}) == 6
    assert len({reading.correct for reading in readings}) == 1
    assert read(module, original, seed=3) == readings[3]


def test_certify_is_only_read(original: nn.Module) -> None:
    module = moved_copy(original, 2.0)
    whole = read(module, original)
    parts = {name: getattr(CAPABILITY, name) for name in ("name", "attack", "select", "retain", "utility")}
    part = read(module, original, Capability(**parts, certify=CAPABILITY.certify[5:9]))
    assert (part.layer, part.by_layer, part.notes) == (whole.layer, whole.by_layer, whole.notes)
    assert part.correct == whole.correct[5:9]


def test_other_weights_are_refused() -> None:
    with pytest.raises(InputError, match=r"9 have no counterpart of their shape \(model\.layers\.2\."):
        read(tiny_llama(), tiny_llama(num_hidden_layers=3))
    with pytest.raises(InputError, match=r"3 have no counterpart of their shape \(layers\."):
        read(tiny_mlp(), tiny_mlp(sizes=(6, 16, 10, 4)), tiny_points())
    with pytest.raises(InputError, match="before unlearning"):
        Connectivity().read(view_of(tiny_llama(), CAPABILITY))


def test_reading_leaves_the_very_same_arrays_even_where_it_fails(original: nn.Module) -> None:
    broken = copy.deepcopy(original)
    with torch.no_grad():
        broken.lm_head.weight[0] = torch.nan
    for other in (original, broken):
        module = moved_copy(original, 0.5)
        arrays = dict([*module.named_parameters(), *module.named_buffers()])
        before = {name: array.detach().clone() for name, array in arrays.items()}
        hooks = hooks_of(module)
        try:
            read(module, other)
        except NotFinite:
            assert other is broken
        after = dict([*module.named_parameters(), *module.named_buffers()])
        assert after.keys() == arrays.keys()
        assert all(after[name] is array and torch.equal(array, before[name]) for name, array in arrays.items())
        assert all(p.requires_grad and p.grad is None for p in module.parameters())
        assert hooks_of(module) == hooks
        assert not module.training


def test_a_removal_close_by_is_told_from_a_model_that_never_knew() -> None:
    """Neither knows; one was led astray from the original and lies in its basin, one has other seeds and data."""
    lies = tuple(replace(item, answer=(item.answer + 1) % len(item.choices)) for item in CAPABILITY.forget)
    parts = {"retain": CAPABILITY.retain, "utility": CAPABILITY.utility}
    stays = Capability(name="stays", attack=(), select=(), certify=(), **parts)
    barriers: dict[str, list[float]] = {"close": [], "apart": []}
    returns: list[float] = []
    for seed in range(3):
        original = knowing_llama(CAPABILITY, seed=seed)
        astray = copy.deepcopy(original)
        data = shuffled_batches(encode_answers(word_tokenizer(), lies), 64, torch.Generator().manual_seed(0))
        train(astray, data, Tuning(learning_rate=1e-3, steps=60))
        close, apart = read(astray.eval(), original), read(knowing_llama(stays, seed=seed + 1), original)
        assert max(close.by_layer["a=0"], apart.by_layer["a=0"]) < 0.5  # chance is 0.36
        assert close.notes["distance"] < 0.2 < 1 < apart.notes["distance"]
        assert close.notes["a"] <= apart.notes["a"]
        returns.append(apart.notes["a"] - close.notes["a"])
        barriers["close"].append(close.notes["barrier"])
        barriers["apart"].append(apart.notes["barrier"])
    assert median(returns) > 0  # the grid is coarse, and one of three may tie
    assert max(barriers["close"]) < min(barriers["apart"])
    assert median(barriers["close"]) < 0.1 < 0.3 < median(barriers["apart"])
