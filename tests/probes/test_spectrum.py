"""The spectrum of a weight difference, on differences whose spectrum is known."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from tiny_classifiers import tiny_mlp, tiny_points
from tiny_models import tiny_llama
from tiny_views import near, text_capability, view_of
from torch import Tensor, nn

from redteam.errors import InputError
from redteam.probes.connectivity import distance
from redteam.probes.contract import ProbeReading
from redteam.probes.spectrum import MOST_ROWS, Spectrum, stable_rank

CAPABILITY = text_capability()
PLACE = "model.layers.1.mlp.up_proj.weight"


def changed(module: nn.Module, difference: Callable[[Tensor], Tensor], name: str = PLACE) -> nn.Module:
    other = copy.deepcopy(module)
    weight = other.get_parameter(name)
    with torch.no_grad():
        weight.add_(difference(weight))
    return other


def read(module: nn.Module, original: nn.Module) -> ProbeReading:
    return Spectrum().read(view_of(module, CAPABILITY, original=original))


def one_direction(weight: Tensor) -> Tensor:
    return torch.outer(torch.linspace(1, 2, len(weight)), torch.linspace(-1, 1, weight.shape[1]))


def all_directions(weight: Tensor) -> Tensor:
    return torch.eye(*weight.shape)


@pytest.mark.parametrize(("difference", "rank"), [(one_direction, 1), (all_directions, 16)])
def test_a_change_of_one_matrix(difference: Callable[[Tensor], Tensor], rank: float) -> None:
    original = tiny_llama()
    module = changed(original, difference)
    reading = read(module, original)
    assert reading.layer == "model.layers.1"
    assert reading.by_layer["model.layers.1"] == reading.notes["share"] == 1.0
    assert sum(reading.by_layer.values()) == 1.0
    assert reading.notes["stable rank"] == pytest.approx(rank, rel=1e-4)
    assert reading.notes["distance"] == pytest.approx(distance(module, original))


def test_a_change_of_two_matrices_is_weighted_by_its_square() -> None:
    """A change of one direction with three times the square of one of 16."""
    original = tiny_llama()
    module = changed(original, all_directions)
    module = changed(module, lambda w: (3 * 16) ** 0.5 * one_direction(w) / one_direction(w).norm(), "lm_head.weight")
    reading = read(module, original)
    assert reading.layer == "lm_head"
    assert reading.by_layer["lm_head"] == pytest.approx(0.75)
    assert reading.notes["stable rank"] == pytest.approx(0.75 * 1 + 0.25 * 16, rel=1e-4)


def test_no_change_has_no_spectrum() -> None:
    module = tiny_llama()
    reading = read(module, copy.deepcopy(module))
    assert (reading.layer, reading.by_layer, reading.notes) == ("", {}, {"distance": 0.0})


def test_items_score_what_the_model_says() -> None:
    original = tiny_llama()
    readings = [
        Spectrum().read(view_of(changed(original, one_direction), CAPABILITY, original=original, seed=seed))
        for seed in range(6)
    ]
    assert len({reading.correct for reading in readings}) == 1
    assert near([score for reading in readings for score in reading.control], CAPABILITY.chance)


def test_other_weights_are_refused() -> None:
    with pytest.raises(InputError, match=r"9 have no counterpart of their shape \(model\.layers\.2\."):
        read(tiny_llama(), tiny_llama(num_hidden_layers=3))
    with pytest.raises(InputError, match="before unlearning"):
        Spectrum().read(view_of(tiny_llama(), CAPABILITY))


def test_classifiers() -> None:
    original, capability = tiny_mlp(), tiny_points()
    name = next(name for name, weight in original.named_parameters() if weight.ndim == 2)
    reading = Spectrum().read(view_of(changed(original, one_direction, name), capability, original=original))
    assert reading.layer == name.rpartition(".")[0]
    assert reading.notes["stable rank"] == pytest.approx(1.0, rel=1e-4)


@pytest.mark.parametrize("shape", [(1, 7), (7, 1), (40, 300), (300, 40)])
@pytest.mark.parametrize("seed", range(3))
def test_the_stable_rank_is_that_of_all_singular_values(shape: tuple[int, int], seed: int) -> None:
    """Where they fall off; of noise, whose largest are alike, it is up to a quarter too high."""
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    falling = noise @ torch.diag(0.8 ** torch.arange(shape[1]))
    for matrix, most in ((falling, 1.001), (noise, 1.25)):
        values = torch.linalg.svdvals(matrix.double())
        exact = float(values.square().sum() / values[0] ** 2)
        assert exact * (1 - 1e-4) <= stable_rank(matrix, seed) <= exact * most


def test_of_a_large_matrix_the_rows_that_changed_stand_for_all() -> None:
    matrix = torch.zeros(MOST_ROWS * 2, 4)
    matrix[::4] = torch.tensor([1.0, 2.0, 3.0, 4.0])
    assert stable_rank(matrix, 0) == pytest.approx(1.0, rel=1e-4)
