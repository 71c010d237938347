"""What a hidden layer would say if it were the last: its states, read by the model's own final norm and head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from redteam.capabilities.scorers.contract import item_scores, scores_of
from redteam.engine.activations import UnknownLayers, hidden_layers
from redteam.engine.devices import device_of
from redteam.engine.steering import Edit, edited
from redteam.probes.contract import ProbeContext, ProbeReading
from redteam.probes.outputs import drawn_answers, encoded_parts


class Lens(nn.Module):
    """A model whose last layer puts out the states of an earlier one, so that what follows reads these instead.

    Every position is read, of the prompt and of the answer, so that choices of several tokens are scored as ever. The
    lens of the last layer is the model itself.
    """

    def __init__(self, module: nn.Module, layer: str, translate: Edit | None = None) -> None:
        """Args: module: is run; layer: one of its hidden layers; translate: what its states become before that.

        Raises:
            UnknownLayers: the hidden layers cannot be told.
        """
        super().__init__()
        self.module, self.layer, self.last = module, layer, hidden_layers(module)[-1]
        self.translate = translate

    def forward(self, *given: Any, **named: Any) -> Any:
        """Runs the model. Returns what it does, with the logits that the layer's states have.

        Raises:
            UnknownLayers: the layer or the last one does not run exactly once, or their states are of other shapes.
        """
        kept: list[Tensor] = []
        own: list[Tensor] = []

        def put_out(states: Tensor) -> Tensor:
            keeper(own)(states)
            taken = matching(self.layer, kept, self.last, own)
            return (taken if self.translate is None else self.translate(taken)).to(states)

        # Two contexts, because the layer may be the last one: then it is kept first and put out after that.
        with edited(self.module, {self.layer: keeper(kept)}), edited(self.module, {self.last: put_out}):
            output = self.module(*given, **named)
        matching(self.layer, kept, self.last, own)
        return output


def keeper(kept: list[Tensor]) -> Edit:
    """Returns an edit that changes nothing and leaves a copy of each output in a list."""

    def keep(states: Tensor) -> Tensor:
        kept.append(states.clone())  # what follows may work in place
        return states

    return keep


def matching(layer: str, kept: list[Tensor], last: str, own: list[Tensor]) -> Tensor:
    """Returns the states that a layer has put out, where the last layer can be given them.

    Args:
        layer: name of the layer.
        kept: all that it has put out in one run of the model.
        last: name of the last layer.
        own: the same of the last layer.

    Raises:
        UnknownLayers: one of the layers did not run exactly once, or their states are of other shapes.
    """
    for name, outputs in ((layer, kept), (last, own)):
        if len(outputs) != 1:
            raise no_lens(f"{name} runs {len(outputs)} times where once is expected")
    if kept[0].shape != own[0].shape:
        raise no_lens(f"{layer} puts out {tuple(kept[0].shape)}, the last layer {tuple(own[0].shape)}")
    return kept[0]


def no_lens(what: str) -> UnknownLayers:
    """Returns the error that says why hidden states cannot be read by the head."""
    return UnknownLayers(f"hidden layers cannot be read by the head: {what}")


def head(module: nn.Module, last: str, states: Tensor) -> Tensor:
    """Returns the logits that the model puts out where its last layer's states are these, float32 [states, vocabulary].

    All that follows the last layer reads each state by itself. So the layers are run on one token alone, and what the
    last one puts out is replaced by all states at once, as so many sequences of one token.

    Args:
        module: a causal language model.
        last: name of its last layer.
        states: [states, hidden].
    """

    def put_out(own: Tensor) -> Tensor:
        return states[:, None].to(own)

    with edited(module, {last: put_out}):
        logits: Tensor = module(
            input_ids=torch.zeros(1, 1, dtype=torch.long, device=device_of(module)),
            attention_mask=None,
            use_cache=False,
        ).logits
    return logits[:, 0].float()


def read_through(view: ProbeContext, lenses: Mapping[str, Lens]) -> ProbeReading:
    """Chooses the layer on select, of equals the earliest, and reports on certify.

    The note "output" is what the last layer scores on select: the model's own answers.

    Args:
        view: what is probed.
        lenses: layer -> its lens, in order; the last is the model's output.

    Raises:
        UnknownLayers: a layer cannot be read by the head.
        NotFinite: a likelihood is NaN or infinite.
    """
    select, certify = encoded_parts(view, "select", "certify")
    by_layer = {layer: float(item_scores(lens, select).mean()) for layer, lens in lenses.items()}
    chosen = max(by_layer, key=lambda layer: by_layer[layer])
    table = certify.table(lenses[chosen])
    return ProbeReading(
        layer=chosen,
        correct=tuple(scores_of(table, certify).tolist()),
        control=tuple(scores_of(table, drawn_answers(certify, view.seed)).tolist()),
        by_layer=by_layer,
        notes={"output": list(by_layer.values())[-1]},
    )
