"""Word search: a phrase for all prompts, found by trying."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from redteam.attacks.contract import Access, Arena, Params, Suggest
from redteam.attacks.phrases import Standing, changed, phrase_recipe, search_phrase, suggest_phrase
from redteam.engine.cost import Spent
from redteam.target import TargetInfo


class WordSearch:
    """Searches for a phrase by random changes of one token, keeping what makes the right answers likelier.

    It needs no more than the likelihood of an answer, which many services give away: the strongest that text alone
    allows. One phrase for all items, scored on facts it was not searched on.

    Source: Andriushchenko et al. 2024, Jailbreaking Leading Safety-Aligned LLMs with Simple Adaptive Attacks (arXiv
    2404.02151), section 3, without its hand-made prompt.
    """

    name = "word-search"
    version = 2
    goal = "tries out phrases before or after every prompt"
    paper = "Andriushchenko et al. 2024 (arXiv 2404.02151)"
    access = Access.TEXT
    kinds = "language"

    def space(self, suggest: Suggest, target: TargetInfo, samples: int) -> Params:
        """The phrase's length and place, and how it is searched for."""
        return suggest_phrase(suggest, samples)

    def recipes(self, target: TargetInfo, samples: int) -> Sequence[Params]:
        """A single token before the prompt, a few, and a few after it."""
        return [
            phrase_recipe(samples, tokens=1, steps=32),
            phrase_recipe(samples, tokens=4, steps=32),
            phrase_recipe(samples, tokens=4, steps=32, place="after"),
        ]

    def run(self, arena: Arena, params: Params) -> Iterator[Spent]:
        """Searches, and has every item asked with the best phrase so far.

        Raises:
            Diverged: a loss is not finite.
            ValueError: there is no token to make a phrase of, or no room for one.
        """
        yield from search_phrase(arena, params, by_chance)


def by_chance(arena: Arena, now: Standing) -> tuple[list[list[int]], int]:
    """Proposes phrases with one token changed to any other, or one more where there is room; see `phrases.Propose`."""
    whole, place = now.located(arena.text, now.items[0])
    tokens = whole[place]
    at = torch.randint(min(len(tokens) + 1, now.room), (now.width,), generator=now.generator)
    new = now.words[torch.randint(len(now.words), (now.width,), generator=now.generator)]
    return [changed(tokens, spot, token) for spot, token in zip(at.tolist(), new.tolist(), strict=True)], 0
