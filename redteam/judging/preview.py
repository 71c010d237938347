"""What a run could show, before it is run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from redteam.evidence import keys
from redteam.judging.statistics import facts_needed, minimum_detectable_difference


@dataclass(frozen=True, kw_only=True, slots=True)
class RunPreview:
    """What would be run for one capability.

    Attributes:
        target: name of the model.
        capability: its name.
        chance: score of a model that knows nothing.
        items: number of items of each split.
        facts: independent facts or entities to certify on.
        budget: search trials on the target; the reference gets as many.
        earlier: how many of them the run that this one extends has spent.
        attacks: that would be tried.
        skipped: that would not, with the reason.
        given: roles of the models beside the target.
        tolerated: excess recovery that the policy tolerates.
        remarks: what keeps the run from a verdict, or limits what it can say.
    """

    target: str
    capability: str
    chance: float
    items: Mapping[str, int]
    facts: int
    budget: int
    earlier: int
    attacks: Sequence[str]
    skipped: Mapping[str, str]
    given: Sequence[str]
    tolerated: float
    remarks: Sequence[str]

    @property
    def detectable(self) -> float:
        """The smallest difference of two scores near chance that so many facts show, four times in five."""
        return minimum_detectable_difference(self.facts, max(self.chance, 1 / self.facts))

    @property
    def needed(self) -> int:
        """How many such facts it takes to say, four times in five, that a model of which nothing comes back resists."""
        return facts_needed(self.chance, self.tolerated)

    @property
    def power(self) -> str:
        """The same in words."""
        shown = f"{self.facts} facts or entities show differences of {self.detectable:.1%} and more"
        needed = f"RESISTED takes about {self.needed} of them"
        said = f"{self.capability}: {shown}, where scores are near chance; {needed}"
        alone = sum(map(keys.is_reference, self.given)) == 1
        return f"{said}. Of one reference it is about this target against it" if alone else said
