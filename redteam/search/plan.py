"""How a budget is divided between recipes, a random block and an adaptive search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, zip_longest
from typing import Literal

from redteam.attacks.contract import Attack, Params
from redteam.errors import InputError
from redteam.target import TargetInfo

Phase = Literal["recipe", "random", "adaptive"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchPlan:
    """Trials 0, 1, 2, ... of a search: recipes, then TPE, and among its trials i.i.d. random ones.

    Once every attack has had its best recipe, the other recipes alternate with variations of what did best so far: what
    is nearly there need not wait for the last recipe of what is hopeless. The random trials are what statements about
    untried configurations may rest on, since they are independent of each other and of the outcome, whenever they are
    run; spread out they do not keep TPE waiting.

    Attributes:
        recipes: (attack, parameters), in the order they are tried.
        random: number of random trials.
        adaptive: number of adaptive trials.
        share: trials that every attack gets, whatever it achieves.
        first: recipes before anything else; None for all of them.
        then: what follows when a run is extended.
    """

    recipes: tuple[tuple[str, Params], ...]
    random: int
    adaptive: int
    share: int = 0
    first: int | None = None
    then: SearchPlan | None = None

    @property
    def own(self) -> int:
        """Trials before the search was extended."""
        return len(self.recipes) + self.random + self.adaptive

    @property
    def budget(self) -> int:
        """All trials."""
        return self.own + (0 if self.then is None else self.then.budget)

    @property
    def recipes_alone(self) -> SearchPlan:
        """The plan that runs all recipes and nothing else."""
        more = () if self.then is None else self.then.recipes_alone.recipes
        return SearchPlan(recipes=self.recipes + more, random=0, adaptive=0)

    @property
    def between(self) -> int:
        """Adaptive trials among the recipes: one before each that is not among the first, as far as there are any."""
        return 0 if self.first is None else min(len(self.recipes) - self.first, self.adaptive)

    def phase(self, index: int) -> Phase:
        """Returns which part of the plan trial `index` belongs to."""
        if self.then is not None and index >= self.own:
            return self.then.phase(index - self.own)
        if index < len(self.recipes) + self.between:
            return "recipe" if self._recipes_before(index + 1) > self._recipes_before(index) else "adaptive"
        place = index - len(self.recipes) - self.between
        return "random" if self._random_before(place + 1) > self._random_before(place) else "adaptive"

    def recipe(self, index: int) -> tuple[str, Params]:
        """Returns the recipe of trial `index`, which is one."""
        if self.then is not None and index >= self.own:
            return self.then.recipe(index - self.own)
        return self.recipes[self._recipes_before(index)]

    def adaptive_before(self, index: int) -> int:
        """Returns how many adaptive trials come before trial `index`."""
        if self.then is not None and index > self.own:
            return self.adaptive + self.then.adaptive_before(index - self.own)
        place = max(0, index - len(self.recipes) - self.between)
        return index - self._recipes_before(index) - self._random_before(place)

    def _recipes_before(self, index: int) -> int:
        """Returns how many of the first trials are recipes: after the first ones every second, while others last."""
        first = len(self.recipes) if self.first is None else self.first
        beyond = max(0, index - first)
        varied = min(-(-beyond // 2), self.between)
        return min(index - varied, len(self.recipes))

    def _random_before(self, place: int) -> int:
        """Returns how many of the first trials after the recipes are random: spread evenly among the adaptive ones."""
        return place * self.random // max(1, self.random + self.adaptive - self.between)


def plan_search(
    attacks: Mapping[str, Attack], target: TargetInfo, samples: int, budget: int, earlier: Sequence[int] = ()
) -> SearchPlan:
    """Divides `budget`: recipes up to a third of it (at least one), then two fifths of the rest at random.

    With several attacks the recipes alternate, each attack's best first, so that a small budget still tries them all.
    Half of what is each attack's by equal division is guaranteed to it.

    Of a run that is extended what was done after each of the `earlier` budgets stays, and the trials beyond are divided
    likewise, with the recipes that are left.
    """
    per_attack = [_recipes(name, attack, target, samples) for name, attack in attacks.items()]
    alternating = [row for row in chain.from_iterable(zip_longest(*per_attack)) if row is not None]
    looks, share = [*earlier, budget], budget // (2 * len(attacks))
    least = max(1, min(len(attacks), looks[0]))
    first = sum(1 for own in per_attack if own)
    parts: list[SearchPlan] = []
    for more in (after - before for before, after in zip([0, *looks], looks, strict=False)):
        recipes = tuple(alternating[: max(least, more // 3)])
        del alternating[: len(recipes)]
        rest = more - len(recipes)
        random = -(-2 * rest // 5)
        early = min(len(recipes), first)
        parts.append(SearchPlan(recipes=recipes, random=random, adaptive=rest - random, share=share, first=early))
        least, first = 0, 0
    plan = parts.pop()
    while parts:
        plan = replace(parts.pop(), then=plan)
    return plan


def _recipes(name: str, attack: Attack, target: TargetInfo, samples: int) -> list[tuple[str, Params]]:
    try:
        return [(name, dict(params)) for params in attack.recipes(target, samples)]
    except Exception as error:
        raise InputError(f"the recipes of {name} fail ({type(error).__name__}: {error})", "Correct them") from error
