"""Events of a run by their keys."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import count, takewhile
from typing import TypeVar

from redteam.evidence import keys
from redteam.evidence.events import BeforeEvent, ChoiceEvent, Event, TrialEvent

Kind = TypeVar("Kind", bound=Event)


@dataclass(frozen=True, kw_only=True, slots=True)
class Events:
    """The events of a run.

    Attributes:
        by_key: in the order in which they were recorded.
    """

    by_key: dict[str, Event] = field(default_factory=dict)

    def __contains__(self, key: str) -> bool:
        return key in self.by_key

    def find(self, key: str, kind: type[Kind]) -> Kind | None:
        """Returns the event of a key; None if there is none of that kind."""
        event = self.by_key.get(key)
        return event if isinstance(event, kind) else None

    def before(self, role: str) -> BeforeEvent | None:
        """Returns the released weights of a model; None if there is no such model."""
        return self.find(keys.before(role), BeforeEvent)

    @property
    def references(self) -> tuple[str, ...]:
        """The roles of the models that never knew, as far as they were read."""
        found = takewhile(lambda role: self.before(role) is not None, map(keys.reference, count()))
        return tuple(found)

    @property
    def roles(self) -> tuple[str, ...]:
        """All roles that a model can have in this run, in the order in which they are told."""
        place = keys.ROLES.index(keys.REFERENCE) + 1
        return (*keys.ROLES[:place], *self.references[1:], *keys.ROLES[place:])

    def choice(self, role: str) -> ChoiceEvent | None:
        """Returns what was chosen to be confirmed on a model; None of runs that choose among what they confirmed."""
        return self.find(keys.choice(role), ChoiceEvent)

    def trials(self, role: str, stage: keys.Stage) -> list[TrialEvent]:
        """Returns the trials of one stage on a model, in the order of their numbers."""
        start = keys.trials(role, stage)
        found = [one for one in self.by_key.values() if isinstance(one, TrialEvent) and one.key.startswith(start)]
        return sorted(found, key=lambda trial: trial.key)
