"""Direction ablation: what tells forget from retain inputs apart is taken out of the hidden states."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor, nn

from redteam.attacks.contract import Access, Arena, Params, Suggest
from redteam.engine.activations import hidden_layers, unknown_layers
from redteam.engine.cost import Spent
from redteam.engine.steering import READ, Edit, along, edited, layer_at, layers_at_work, mean_states
from redteam.target import TargetInfo

SHARES = (0.25, 0.5, 1.0)  # of the direction that is taken out, in turn


class Ablate:
    """Removes the difference of the mean states on forget and on retain items.

    h <- h - a ((h - c) . r) r with r the unit difference of means where answers are predicted, and c either nothing or
    the mean state on retain items, so that every input looks as little of the forget set as those do. "one everywhere"
    takes r from one layer and removes it in every layer whose states have its shape; "every" removes each layer's own
    r in that layer; "one" does so in one layer alone. a grows along a trial from a quarter to the whole: some models
    lose all else with the whole of it.

    Source: Arditi et al. 2024, Refusal in Language Models Is Mediated by a Single Direction (arXiv 2406.11717), for one
    direction in every layer, to zero: they remove it between attention and MLP too, here it is the output of a layer.
    Marshall et al. 2024, Refusal in LLMs is an Affine Function (arXiv 2411.09003), for c. As an attack on unlearning,
    with a direction of its own for every layer, Łucki et al. 2024 (arXiv 2409.18025).
    """

    name = "ablate"
    version = 3
    goal = "takes out of hidden states what tells forget from retain inputs"
    paper = "Arditi et al. 2024 (arXiv 2406.11717); Łucki et al. 2024 (arXiv 2409.18025)"
    access = Access.ACTIVATIONS
    kinds = "language, classifier"
    needs = "forgotten"  # without examples the difference is one of two draws of retain items

    def unfit(self, module: nn.Module) -> str | None:
        """Returns why this cannot work on a module: its hidden layers cannot be told."""
        return unknown_layers(module)

    def space(self, suggest: Suggest, target: TargetInfo, samples: int) -> Params:
        """Where which direction is removed, the depth of the one layer, and what the states are moved to."""
        params = {
            "layers": suggest.suggest_categorical("layers", ["every", "one everywhere", "one"]),
            "towards": suggest.suggest_categorical("towards", ["zero", "retain"]),
        }
        if params["layers"] != "every":
            params["depth"] = suggest.suggest_float("depth", 0.0, 1.0)
        return params

    def recipes(self, target: TargetInfo, samples: int) -> Sequence[Params]:
        """Every layer's own direction, to zero; one direction everywhere, to zero; then towards the retain mean.

        Single layers come last, from the middle outwards.
        """
        return [
            {"layers": "every", "towards": "zero"},
            {"layers": "one everywhere", "towards": "zero", "depth": 0.5},
            {"layers": "every", "towards": "retain"},
            *({"layers": "one", "towards": "retain", "depth": depth} for depth in (0.5, 1.0, 0.0)),
        ]

    def run(self, arena: Arena, params: Params) -> Iterator[Spent]:
        """Reads both means on the attack split and the retain items, and puts the hooks in place."""
        layers = layers_at_work(arena.module, arena.answers, hidden_layers(arena.module))
        source = None if params["layers"] == "every" else layer_at(layers, params["depth"])
        if source is not None and params["layers"] == "one":
            layers = (source,)
        known = (arena.answers, arena.some_retain(READ))
        forget, retain = (mean_states(arena.module, data, layers) for data in known)
        removed = {}
        for layer, centre in retain.items():
            difference = forget[source or layer] - retain[source or layer]
            if difference.shape == centre.shape:  # the layers of a classifier may differ in width
                removed[layer] = difference.to(centre.device), centre if params["towards"] == "retain" else None
        for share in SHARES:
            edits = {layer: ablation(*one, share) for layer, one in removed.items()}
            arena.in_place.close()  # of the share before
            arena.in_place.enter_context(edited(arena.module, edits))
            yield arena.ledger.charge_edit()


def ablation(difference: Tensor, towards: Tensor | None, share: float) -> Edit:
    """Returns h -> h - a ((h - c) . r) r for r the unit difference, c `towards`, or zero, and a the share."""
    direction = difference / difference.norm().clamp(min=1e-12)

    def edit(states: Tensor) -> Tensor:
        return states - share * along(states if towards is None else states - towards, direction)

    return edit
