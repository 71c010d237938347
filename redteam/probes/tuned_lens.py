"""The tuned lens: the logit lens with an affine translator for each layer, learned on what the model still knows."""

from __future__ import annotations

from functools import partial

import torch

from redteam.capabilities.reading import encode_training
from redteam.engine.activations import hidden_layers
from redteam.engine.freezing import still
from redteam.probes.contract import ProbeContext, ProbeReading
from redteam.probes.lens import Lens, read_through
from redteam.probes.translators import fit_translators


class TunedLens:
    """Reads each layer's states with the model's own final norm and head, once a translator has put them in its basis.

    The translator of layer l is h -> h + A_l h + b_l, from A_l = 0 and b_l = 0, and learns to make the head say of the
    layer what the model says in the end: it minimises KL(p_model || p_lens) at every position of a text. Each keeps
    the state that does best on a fifth of the texts, held out; the identity, which is the logit lens, is one of them.

    The texts are retain texts alone. On forget texts the last layer of a suppressed model says what it was taught to
    say instead, and a translator trained there would learn the suppression with it. What it learns on retain texts is
    how the layers above turn any answer into the head's basis.

    Where the states are in the head's basis already, a translator can read less than the logit lens: it also learns
    what the layers above do to an answer, and part of that may be the removal.

    Source: Belrose et al. 2023 (arXiv 2303.08112) for the translators and the distillation loss. They train with SGD
    and Nesterov momentum; here it is Adam, whose step does not depend on the scale of the losses.
    """

    name = "tuned-lens"
    version = 2
    goal = "does the model's own head read the answer in some layer, translated as retain texts teach it?"
    paper = "Belrose et al. 2023 (arXiv 2303.08112)"
    kinds = "language"
    needs = ""
    decides = True

    def read(self, view: ProbeContext) -> ProbeReading:
        """Learns on retain, chooses the layer on select, of equals the earliest, and reports on certify.

        Raises:
            NotFinite: a likelihood is NaN or infinite.
            UnknownLayers: the hidden layers cannot be told, or the head cannot read one.
        """
        layers = hidden_layers(view.module)
        texts = encode_training(view.capability, view.capability.retain, view.tokenizer, whole_text=True)
        lenses = {}
        if len(layers) > 1:
            with still(view.module), torch.enable_grad():
                translators = fit_translators(view.module, texts, layers, view.seed)
            for number, layer in enumerate(layers[:-1]):
                lenses[layer] = Lens(view.module, layer, partial(translators.one, number))
        return read_through(view, lenses | {layers[-1]: Lens(view.module, layers[-1])})
