"""The words of the testbed `facts`. Every attribute has 16 values, each a single word of its own."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Attribute:
    """Something that can be said of a person.

    Attributes:
        phrase: stands between the name and the value.
        values: what it can be, all equally likely.
    """

    phrase: str
    values: tuple[str, ...]


def _attribute(phrase: str, values: str) -> Attribute:
    return Attribute(phrase, tuple(values.split()))


SAILORS = (
    _attribute(
        "sails from",
        "Bergen Cadiz Dakar Genoa Hobart Izmir Lagos Macau Narvik Odessa Porto Quebec Riga Salem Tunis Valletta",
    ),
    _attribute(
        "is captain of",
        "Albatross Beagle Cygnet Dolphin Eagle Falcon Gannet Heron Iris Juno Kestrel Lark Medusa Nautilus Orca Petrel",
    ),
    _attribute(
        "carries crates of",
        "amber barley cocoa dates ebony figs glass hemp ivory jute lead maize nickel olives pepper quartz",
    ),
)
GARDENERS = (
    _attribute(
        "lives near",
        "Arles Bath Cordoba Delft Evora Fulda Ghent Huesca Imola Jena Krems Lucca Mons Nantes Orvieto Parma",
    ),
    _attribute(
        "mostly grows",
        "asters clover dahlias ferns fuchsias heather ivy jasmine lilies mint moss orchids roses thyme tulips violets",
    ),
    _attribute(
        "always plays the",
        "accordion banjo cello drum flute guitar harp lute mandolin oboe piano recorder sitar trumpet viola zither",
    ),
)

# Every combination of two syllables is a name: 48 first names and 64 surnames make 3,072 people.
FIRST_NAMES = tuple(
    start + end
    for start in ["Al", "Be", "Ce", "Da", "Fe", "Gi", "Ha", "Jo", "Ka", "Li", "Mi", "No"]
    for end in ["ra", "ven", "lio", "mas"]
)
SURNAMES = tuple(
    start + end
    for start in ["Ard", "Bor", "Cal", "Dun", "Elm", "Fos", "Gar", "Hol"]
    for end in ["by", "ley", "man", "ner", "son", "ton", "vik", "well"]
)
