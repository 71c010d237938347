"""Universal suffix: a phrase for all prompts, found by greedy coordinate gradient."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from redteam.attacks.contract import Access, Arena, Params, Suggest
from redteam.attacks.phrases import STEPS, Standing, changed, phrase_recipe, search_phrase, suggest_phrase, with_phrase
from redteam.engine.batches import TokenSet
from redteam.engine.cost import Spent
from redteam.engine.embeddings import token_gradients, without_embeddings
from redteam.target import TargetInfo

TOP = 256
LONGEST = 128  # steps
SHARE = 8  # of a small vocabulary at most the best eighth: all of it would be a random search


class Suffix:
    """Searches for a phrase by greedy coordinate gradient: of each place the tokens that promise most by gradient.

    In each step the loss on the right answers is differentiated by the tokens of the phrase; candidates draw a place
    and one of its `TOP` best tokens; the best of them by its true loss is kept. One phrase for all items, scored on
    facts it was not searched on. The phrase is text, but to find it takes gradients.

    Published searches take 500 steps of 512 candidates, 30 times as many as the longest here: 128 of 64. Each candidate
    is read with every item of the step, and a trial of the published size would be 250,000 such readings, where a
    family has a handful of trials among a hundred. What resists here may give way to a search that long.

    Source: Zou et al. 2023, Universal and Transferable Adversarial Attacks (arXiv 2307.15043), algorithm 2 with all
    prompts at once; as an attack on unlearning, Łucki et al. 2024 (arXiv 2409.18025). That a phrase must survive being
    written out and read again: section 2.2 of Jain et al. 2023 (arXiv 2309.00614) and later work.
    """

    name = "suffix"
    version = 2
    goal = "searches by gradient for a phrase before or after every prompt"
    paper = "Zou et al. 2023 (arXiv 2307.15043); Łucki et al. 2024 (arXiv 2409.18025)"
    access = Access.EMBEDDINGS
    kinds = "language"

    def unfit(self, module: nn.Module) -> str | None:
        """Returns why this cannot work on a module: it has no token embeddings."""
        return without_embeddings(module)

    def space(self, suggest: Suggest, target: TargetInfo, samples: int) -> Params:
        """The phrase's length and place, and how it is searched for."""
        return suggest_phrase(suggest, samples, [*STEPS, LONGEST])

    def recipes(self, target: TargetInfo, samples: int) -> Sequence[Params]:
        """Eight tokens before, twenty after as published, a single one before, and twenty after for long."""
        return [
            phrase_recipe(samples),
            phrase_recipe(samples, tokens=20, place="after"),
            phrase_recipe(samples, tokens=1),
            phrase_recipe(samples, tokens=20, place="after", steps=LONGEST),
        ]

    def run(self, arena: Arena, params: Params) -> Iterator[Spent]:
        """Searches, and has every item asked with the best phrase so far.

        Raises:
            Diverged: a loss is not finite.
            ValueError: there is no token to make a phrase of, or no room for one.
        """
        yield from search_phrase(arena, params, by_gradient)


def by_gradient(arena: Arena, now: Standing) -> tuple[list[list[int]], int]:
    """Proposes phrases with one token changed to what the gradient promises most of; see `phrases.Propose`."""
    data, places, tokens = _located(arena, now)
    batch = data.batch(slice(None))
    promise = -token_gradients(arena.module, batch, places).cpu()[:, now.words]
    top = promise.topk(min(TOP, -(-len(now.words) // SHARE)), dim=1).indices
    at = torch.randint(len(tokens), (now.width,), generator=now.generator)
    rank = torch.randint(top.shape[1], (now.width,), generator=now.generator)
    new: Tensor = now.words[top[at, rank]]
    pairs = zip(at.tolist(), new.tolist(), strict=True)
    return [changed(tokens, place, token) for place, token in pairs], batch.tokens


def _located(arena: Arena, now: Standing) -> tuple[TokenSet, list[slice], list[int]]:
    """Returns the items with the phrase, where it is in each, and its tokens.

    Items beside which it is made of other tokens than beside the first are left out.
    """
    found = [now.located(arena.text, item) for item in now.items]
    tokens = found[0][0][found[0][1]]
    if not tokens:
        raise ValueError("nothing of the phrase is left once it stands beside a prompt")
    alike = [row for row, (whole, place) in enumerate(found) if whole[place] == tokens]
    data = arena.text.encoded([now.items[row] for row in alike], with_phrase(now.phrase, now.place))
    return data, [found[row][1] for row in alike], tokens
