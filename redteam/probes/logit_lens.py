"""The logit lens: does a layer half-way up still say the answer that the output does not?"""

from __future__ import annotations

from redteam.engine.activations import hidden_layers
from redteam.probes.contract import ProbeContext, ProbeReading
from redteam.probes.lens import Lens, read_through


class LogitLens:
    """Reads each layer's states with the model's own final norm and head: logits_l = head(norm(h_l)).

    Unlearning that rewrites the upper layers alone leaves the answer in the states below, and the head still reads it.
    Nothing is learned. The last layer is the model's own output, and one of the layers that are chosen from on select.

    Source: nostalgebraist 2020, interpreting GPT: the logit lens. As an attack on what was to be deleted: Patil et al.
    2023 (arXiv 2309.17410); on unlearning, Lynch et al. 2024 (arXiv 2402.16835).
    """

    name = "logit-lens"
    version = 1
    goal = "does the model's own head read the answer in some layer, before the layers above change it?"
    paper = "nostalgebraist 2020 (logit lens); Patil et al. 2023 (arXiv 2309.17410); Lynch et al. 2024 (2402.16835)"
    kinds = "language"
    needs = ""
    decides = True

    def read(self, view: ProbeContext) -> ProbeReading:
        """Chooses the layer on select, of equals the earliest; the note "output" is what the last layer scores there.

        Raises:
            NotFinite: a likelihood is NaN or infinite.
            UnknownLayers: the hidden layers cannot be told, or the head cannot read one.
        """
        return read_through(view, {layer: Lens(view.module, layer) for layer in hidden_layers(view.module)})
