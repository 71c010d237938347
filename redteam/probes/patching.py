"""Activation patching: from which layer on does the model answer, once it is given the original's states?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from redteam.capabilities.reading import Chosen
from redteam.capabilities.scorers.contract import item_scores, scores_of
from redteam.engine.activations import hidden_layers
from redteam.engine.steering import edited
from redteam.errors import InputError
from redteam.probes.contract import ProbeContext, ProbeReading
from redteam.probes.outputs import drawn_answers, encoded_parts, half_returned, open_original

NEVER = 2.0  # the depth of what no layer brings back: beyond 1, the last layer


class Patching:
    """Puts the original's states into the probed model, one layer at a time, and scores what the layers above say.

    The states of every position are replaced, of the prompt and of the answer. Then nothing below the layer takes part
    any more, and the score says whether the layers above still turn what the original knows into answers. At the
    position of the answer alone the layers above would go on to read all other positions from the model's own states,
    and a fact that is looked up in the prompt and moved to its end half-way up would seem to be gone below there.

    `layer` is the first at which half of what the original scores above the model has come back. The note "depth" is
    its share of the depth: 0 is the first layer (all that lies above still works: the removal sits at the very bottom),
    1 the last, and 2 stands for none: the removal sits in the output head, or the model has states of its own
    throughout, as one that was trained apart.

    Source: Lee, Kim & Jo 2026, Unlearning Depth Score (arXiv 2605.24614), who patch the other way round: states of
    the unlearned model into the original, which says what its states lost. Here it is what its layers lost. Meng et al.
    2022 (arXiv 2202.05262) for patching.
    """

    name = "patching"
    version = 1
    goal = "above which layer does the model answer again, given the original's states there?"
    paper = "Lee, Kim & Jo 2026, Unlearning Depth Score (arXiv 2605.24614); Meng et al. 2022 (arXiv 2202.05262)"
    kinds = "language, classifier"
    needs = "original"
    decides = False

    def read(self, view: ProbeContext) -> ProbeReading:
        """Finds the layer on select. Where there is none, the layer that does best there is read, and `layer` is "".

        Raises:
            InputError: the original was not given, or its layers or their states are others.
            NotFinite: a likelihood is NaN or infinite.
            UnknownLayers: the hidden layers cannot be told.
        """
        original, module = open_original(view), view.module
        select, certify = encoded_parts(view, "select", "certify")
        unpatched, known = (float(item_scores(m, select).mean()) for m in (module, original))
        by_layer = _select_scores(original, module, select)
        found = half_returned(by_layer, unpatched, known)
        place = found or max(by_layer, key=lambda layer: by_layer[layer])
        table = certify.table(Patched(original, module, place))
        depth = NEVER if found is None else list(by_layer).index(found) / max(1, len(by_layer) - 1)
        return ProbeReading(
            layer=found or "",
            correct=tuple(scores_of(table, certify).tolist()),
            control=tuple(scores_of(table, drawn_answers(certify, view.seed)).tolist()),
            by_layer=by_layer,
            notes={"depth": depth, "unpatched": unpatched, "original": known},
        )


class Patched(nn.Module):
    """A model whose layer puts out what the same layer of the original does for the same input.

    Attributes:
        taken: how often the layer has run.
    """

    def __init__(self, original: nn.Module, module: nn.Module, layer: str) -> None:
        """Args: original: gives the states; module: gets them; layer: name of a submodule of both."""
        super().__init__()
        self.original, self.patched, self.layer = original, module, layer
        self.taken = 0

    def forward(self, *given: Any, **named: Any) -> Any:
        """Runs the original, then the model with the original's states. Returns what the model does.

        Raises:
            InputError: the layer runs more or less often in one of them, or its states are of other shapes.
        """
        kept: list[Tensor] = []

        def keep(states: Tensor) -> Tensor:
            kept.append(states.clone())  # what follows may work in place
            return states

        with edited(self.original, {self.layer: keep}):
            self.original(*given, **named)
        self.taken += len(kept)
        waiting = iter(kept)
        with edited(self.patched, {self.layer: lambda states: self._replaced(states, waiting)}):
            output = self.patched(*given, **named)
        if next(waiting, None) is not None:
            raise self._differs("runs more often in the original")
        return output

    def _replaced(self, states: Tensor, waiting: Iterator[Tensor]) -> Tensor:
        taken = next(waiting, None)
        if taken is None:
            raise self._differs("runs less often in the original")
        if taken.shape != states.shape:
            raise self._differs(f"puts out {tuple(taken.shape)} in the original, {tuple(states.shape)} in the model")
        return taken.to(states)

    def _differs(self, what: str) -> InputError:
        return InputError(f"states cannot be patched: {self.layer} {what}", "Give the model that was unlearned")


def _select_scores(original: nn.Module, module: nn.Module, select: Chosen) -> Mapping[str, float]:
    """Returns the mean select score after patching at each layer that takes part, in order."""
    layers, others = hidden_layers(module), hidden_layers(original)
    if others != layers:
        raise InputError(
            f"states cannot be patched: the original has other layers ({others[-1]} is the last of "
            f"{len(others)}; here {layers[-1]} of {len(layers)})",
            "Give the model that was unlearned",
        )
    scores = {}
    for layer in layers:
        patched = Patched(original, module, layer)
        table = select.table(patched)
        if patched.taken:
            scores[layer] = float(scores_of(table, select).mean())
    if not scores:
        raise InputError("states cannot be patched: no hidden layer takes part", "Leave this probe out")
    return scores
