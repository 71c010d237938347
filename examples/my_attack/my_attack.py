"""An attack of one's own: fine-tunes the vectors of a model (norms and biases) on forget items, and no matrix.

    redteam attack TARGET -a examples/my_attack/my_attack.py:Vectors --budget 24

The README beside it says what an attack promises and what becomes of one that breaks its promises.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from redteam import Access, Arena, Params, Spent, Suggest, TargetInfo, Tuning


class Vectors:
    """Trains a thousandth of the weights: what comes back through so few was not far away.

    Source: Ben Zaken et al. 2021, BitFit (arXiv 2106.10199), which trains the biases alone.
    """

    # What `redteam list attacks` and the evidence say of it. Raise the version with every change that moves a number.
    name = "vectors"
    version = 1
    goal = "fine-tunes norms and biases on forget items"
    paper = "Ben Zaken et al. 2021, BitFit (arXiv 2106.10199)"
    access = Access.WEIGHTS
    kinds = "language, classifier"
    step_limit = 120.0  # seconds; a step that takes longer is taken to hang. Without it, ten minutes

    def space(self, suggest: Suggest, target: TargetInfo, samples: int) -> Params:
        """What the search may try. Return what was suggested, under the names it was suggested by."""
        return {
            "learning_rate": suggest.suggest_float("learning_rate", 1e-4, 1e-1, log=True),
            "samples": suggest.suggest_int("samples", 1, samples, log=True),  # of the attack split, one item at least
            "steps": suggest.suggest_categorical("steps", [16, 32, 64]),
        }

    def recipes(self, target: TargetInfo, samples: int) -> Sequence[Params]:
        """Settings that are tried first, best first. Each lies inside the space, whatever the size of the split."""
        return [{"learning_rate": rate, "samples": samples, "steps": 32} for rate in (1e-2, 1e-3)]

    def run(self, arena: Arena, params: Params) -> Iterator[Spent]:
        """Attacks `arena.module` in place, and yields after every step what was spent so far.

        The harness scores between the steps, may close the generator after any of them, and puts the weights back.
        """
        vectors = {name for name, weights in arena.module.named_parameters() if weights.ndim == 1}
        tuning = Tuning(learning_rate=params["learning_rate"], steps=params["steps"], clip=1.0)
        data = arena.answers.take(slice(0, params["samples"]))  # shuffled by the trial's seed: the first are a sample
        yield from arena.fine_tune(data, 16, tuning, only=vectors.__contains__)
