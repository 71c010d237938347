"""Spectrum of the weight difference: how much was changed, where, and in how many directions?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from redteam.capabilities.scorers.contract import scores_of
from redteam.engine.activations import UnknownLayers, hidden_layers
from redteam.engine.seeding import seeded
from redteam.probes.connectivity import distance, paired
from redteam.probes.contract import ProbeContext, ProbeReading
from redteam.probes.outputs import drawn_answers, encoded_parts, open_original

DIRECTIONS, ROUNDS = 8, 3  # of the subspace iteration
MOST_ROWS = 16384  # of a larger matrix, an embedding, the rows that changed most stand for all


class Spectrum:
    """Describes the difference D of each weight matrix to the original's.

    The stable rank |D|_F^2 / |D|_2^2 is 1 of a difference in one direction and at most the rank of D. Small ones are
    what an edit of few directions leaves (a low-rank adapter, a steering vector baked in), large ones what noise does.
    `layer` names the layer in which most of the squared difference lies, and `by_layer` the share of each. The notes:
    "share" of that layer; "stable rank", the mean over matrices, weighted by their squared difference; "distance" as
    of the probe `connectivity`. Nothing is read of items: they score what the model says as it is.

    Source: Rudelson & Vershynin 2007 (arXiv math/0503442), section 1, for the stable rank, there of the numerical rank;
    Halko, Martinsson & Tropp 2011 (arXiv 0909.4061), algorithm 4.4, for the
    largest singular value.
    """

    name = "spectrum"
    version = 1
    goal = "how much do weights differ from the original's, in which layer, and in how many directions?"
    paper = "Rudelson & Vershynin 2007 (arXiv math/0503442); Halko, Martinsson & Tropp 2011 (arXiv 0909.4061)"
    kinds = "language, classifier"
    needs = "original"
    decides = False

    def read(self, view: ProbeContext) -> ProbeReading:
        """Compares the weights.

        Raises:
            InputError: the original was not given, or has other weights.
            NotFinite: a likelihood of the model is NaN or infinite.
        """
        model, original = view.module, open_original(view)
        squares: dict[str, float] = defaultdict(float)
        ranks: list[tuple[float, float]] = []  # the square of a difference, and its stable rank
        for name, difference in _differences(model, original):
            square = float(difference.square().sum(dtype=torch.float64))
            squares[_layer_of(name, model)] += square
            if difference.ndim > 1 and square > 0:
                ranks.append((square, stable_rank(difference.flatten(1), view.seed)))
        whole = sum(squares.values())
        shares = {layer: square / whole for layer, square in squares.items()} if whole else {}
        layer = max(shares, key=lambda one: shares[one], default="")
        notes = {"distance": distance(model, original)}
        if ranks:
            notes["stable rank"] = sum(square * rank for square, rank in ranks) / sum(square for square, _ in ranks)
        if shares:
            notes["share"] = shares[layer]
        (certify,) = encoded_parts(view, "certify")
        table = certify.table(model)
        return ProbeReading(
            layer=layer,
            correct=tuple(scores_of(table, certify).tolist()),
            control=tuple(scores_of(table, drawn_answers(certify, view.seed)).tolist()),
            by_layer=shares,
            notes=notes,
        )


@torch.no_grad()
def stable_rank(matrix: Tensor, seed: int) -> float:
    """Returns |D|_F^2 / |D|_2^2 of [rows, columns], not all 0. Where the spectrum is flat it is a little too high.

    The largest singular value is found from below: a subspace is turned a few times towards the largest ones.
    """
    if len(matrix) > MOST_ROWS:
        matrix = matrix[torch.linalg.vector_norm(matrix, dim=1).topk(MOST_ROWS).indices]
    few = min(DIRECTIONS, *matrix.shape)
    basis = torch.randn(matrix.shape[1], few, generator=seeded(seed, "spectrum")).to(matrix)
    for _ in range(ROUNDS):
        basis = torch.linalg.qr(matrix.T @ (matrix @ basis)).Q
    reached = (matrix @ basis).double()
    largest = torch.linalg.eigvalsh(reached.T @ reached)[-1]
    return float(matrix.square().sum(dtype=torch.float64) / largest)


def _differences(model: nn.Module, original: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yields the difference of each parameter, float32, tied ones once."""
    pairs = paired(model, original)
    for name, _ in model.named_parameters():
        ours, theirs = pairs[name]
        if ours.is_floating_point():
            yield name, ours.float() - theirs.to(ours.device).float()


def _layer_of(name: str, model: nn.Module) -> str:
    """Returns the hidden layer that a parameter belongs to; of any other the module that holds it."""
    try:
        layers = hidden_layers(model)
    except UnknownLayers:
        layers = ()
    return next((layer for layer in layers if name.startswith(f"{layer}.")), name.rpartition(".")[0])
