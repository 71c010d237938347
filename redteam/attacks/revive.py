"""Reviving: what no gradient reaches is opened first, and trained after."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from redteam.attacks.contract import Access, Arena, Params, Suggest
from redteam.attacks.tuning import FULL, at_width, forget_data, recipe, suggest_data, suggest_tuning, tuning_of
from redteam.engine.batches import join
from redteam.engine.cost import Spent
from redteam.engine.opening import CENTRE, ZERO, open_channels
from redteam.target import TargetInfo

LEAST = (1e-6, 1.0)  # effects, see `unused_channels`: from what no gradient reaches to what a gradient hardly moves
RATIOS = (0.25, 16.0)  # retain items to a forget item


class Revive:
    """Opens channels that are unused on all items at hand, and fine-tunes on forget items among retain items.

    A unit behind a closed gate, a dead one, a saturated one or one behind a gain of zero has no gradient, and no attack
    that trains reaches what it knows. `open_channels` says how each is opened.

    Source: Athalye et al. 2018, Obfuscated Gradients Give a False Sense of Security (arXiv 1802.00420): where gradients
    vanish they are put back by changing what makes them vanish. Sokar et al. 2023 (arXiv 2302.12902) find dormant units
    by what they put out and recycle them; here they are opened as they are, since what they hold is looked for.
    """

    name = "revive"
    version = 1
    goal = "opens units that nothing depends on: closed gates, dead units, gains of zero; then trains"
    paper = "after Athalye et al. 2018 (arXiv 1802.00420); Sokar et al. 2023 (arXiv 2302.12902)"
    access = Access.WEIGHTS
    kinds = "language, classifier"

    def space(self, suggest: Suggest, target: TargetInfo, samples: int) -> Params:
        """How channels are opened, what counts as unused, tuning, data, and retain items to each forget item."""
        return {
            "opening": suggest.suggest_categorical("opening", [ZERO, CENTRE]),
            "least": suggest.suggest_float("least", *LEAST, log=True),
            **suggest_tuning(suggest, FULL),
            **suggest_data(suggest, samples),
            "ratio": suggest.suggest_float("ratio", *RATIOS, log=True),
        }

    def recipes(self, target: TargetInfo, samples: int) -> Sequence[Params]:
        """What hardly acts, its biases zero or centred; what acts a little; and only what does nothing.

        Gates whose biases are at -1000, -10, -6 and -4 are all opened by the first three, those at -4 by the third.
        """
        base: dict[str, Any] = {"samples": samples, "loss": "answer", "ratio": 4.0, "steps": 128}
        (tuned,) = at_width([recipe("adamw", 1e-3, **base)], target, FULL)
        ways = ((ZERO, 0.1), (CENTRE, 0.1), (ZERO, 0.3), (CENTRE, 1e-3))
        return [{"opening": opening, "least": least, **tuned} for opening, least in ways]

    def run(self, arena: Arena, params: Params) -> Iterator[Spent]:
        """Opens what is closed, which is one step, and trains all weights."""
        open_channels(
            arena.module, arena.answers, arena.retain, how=params["opening"], least=params["least"], seed=arena.seed
        )
        yield arena.ledger.charge_edit()
        data = join(forget_data(arena, params), arena.some_retain(params["ratio"] * params["samples"]))
        yield from arena.fine_tune(data, params["batch_size"], tuning_of(params))
