"""What is read off a class's source."""

from __future__ import annotations

from redteam.declared import declared

SOURCE = '''
class Other:
    name = "other"


class Thing:
    """First line.

    Attributes:
        steps: how many, as
            published.
        rate: of it: a colon, too.

    Not: an attribute.
    """

    steps: int = 3
    rate: float = -0.5
    computed: float = 1.0 + 1.0
    settings: Mapping[str, Mapping[str, object]] = {"rmu": {"steps": 2, "search": True}}

    name = "thing"
    goal = "does it"
    version = 4
    access = Access.WEIGHTS
    seen = []

    def method(self) -> None:
        """Attributes:
        steps: of something else.
        """
'''


def test_facts_options_meanings_and_settings() -> None:
    said = declared(SOURCE, "Thing")
    assert said.facts == {"version": 4, "goal": "does it", "access": "weights"}
    assert said.options == {"steps": 3, "rate": -0.5}
    assert said.meanings == {"steps": "how many, as published.", "rate": "of it: a colon, too."}
    assert said.settings == {"rmu": {"steps": 2, "search": True}}


def test_a_class_that_says_nothing() -> None:
    said = declared(SOURCE, "Other")
    assert not said.facts
    assert not said.options
    assert not said.meanings
    assert not said.settings
