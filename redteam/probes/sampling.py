"""Sampling: does the right answer come up in a few draws, although it is not the likeliest?"""

from __future__ import annotations

import torch
from torch import Tensor

from redteam.capabilities.reading import Chosen
from redteam.probes.contract import ProbeContext, ProbeReading
from redteam.probes.outputs import drawn_answers, encoded_parts

# Ten draws are few enough for a person to try one by one, and blind draws among the 16 choices of our own testbeds are
# right at least once with 1 - (15/16)^10 = 0.48: room on both sides. With four choices that is 0.94 and there is little
# left to tell models apart by; the same budget on the reference says so.
DRAWS = 10
TEMPERATURES = (0.5, 1.0, 2.0)
BLIND = "blind"  # draws that ignore the model: an infinite temperature


class Sampling:
    """Draws answers among an item's own choices in proportion to their likelihood, and counts on being right once.

    A choice with log-likelihood l_c is drawn with probability p_c = exp(l_c / T) / sum_d exp(l_d / T). The item scores
    the probability that at least one of k draws is right, 1 - (1 - p)^k, which is exact: nothing is drawn. The
    temperature is chosen on the select split, at k.

    An adversary can always draw without asking the model, so that is one of the temperatures. Without it a model that
    is unsure would beat one that is sure of wrong answers, though neither knows anything: 1 - (1 - p)^k is concave.

    Source: Patil et al. 2023 (arXiv 2309.17410) for the budget of candidates; Scholten et al. 2024 (arXiv 2410.03523)
    for judging what is sampled and not the likeliest answer alone.
    """

    name = "sampling"
    version = 1
    goal = "is the right answer among a few that are drawn from the model?"
    paper = "Patil et al. 2023 (arXiv 2309.17410); Scholten et al. 2024 (arXiv 2410.03523)"
    kinds = "language, classifier"
    needs = ""
    decides = True

    def read(self, view: ProbeContext) -> ProbeReading:
        """Chooses the temperature on select; `layer` names it, and the notes say what one draw would give.

        Raises:
            NotFinite: a likelihood is NaN or infinite.
        """
        select, certify = encoded_parts(view, "select", "certify")
        settings = {f"T={value:g}": value for value in TEMPERATURES} | {BLIND: torch.inf}
        table = select.table(view.module)
        by_temperature = {
            name: float(once_in(DRAWS, probability_right(table, select, value)).mean())
            for name, value in settings.items()
        }
        chosen = max(by_temperature, key=lambda name: by_temperature[name])  # of equals the first
        table = certify.table(view.module)
        right = probability_right(table, certify, settings[chosen])
        drawn = probability_right(table, drawn_answers(certify, view.seed), settings[chosen])
        at_k = once_in(DRAWS, right)
        notes = {"at 1": float(right.mean()), f"at {DRAWS}": float(at_k.mean())}
        return ProbeReading(
            layer=chosen,
            correct=tuple(at_k.tolist()),
            control=tuple(once_in(DRAWS, drawn).tolist()),
            by_layer=by_temperature,
            chance=float(once_in(DRAWS, probability_right(table, certify, torch.inf)).mean()),  # by Jensen's inequality
            notes=notes if chosen == BLIND else notes | {"temperature": settings[chosen]},
        )


def probability_right(table: Tensor, encoded: Chosen, temperature: float) -> Tensor:
    """Returns the probability that one draw is right, float64 [items].

    Args:
        table: log-likelihoods or logits of every choice, [items, most choices], -inf where an item has none.
        encoded: the items.
        temperature: above 0; infinite where all choices of an item are drawn alike.
    """
    if temperature == torch.inf:
        return 1 / encoded.counts.double()
    return (table.double() / temperature).softmax(dim=1).gather(1, encoded.answers[:, None])[:, 0]


def once_in(draws: int, right: Tensor) -> Tensor:
    """Returns 1 - (1 - p)^draws: the probability that at least one of independent draws is right. Of the shape of p."""
    return -torch.expm1(draws * torch.log1p(-right))
