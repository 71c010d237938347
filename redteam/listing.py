"""`redteam list` and `redteam show`: what there is, and what is known of it."""

from __future__ import annotations

import json
from collections.abc import Iterator

from rich.console import Console

from redteam.errors import InputError
from redteam.options import Format, Kind
from redteam.registry import ATTACKS, SCORERS, STAGES, registry_of


def listed(kind: Kind, format: Format) -> Iterator[str]:
    """Yields what is printed of all of a kind, what other packages bring with it."""
    registry = registry_of(kind.value)
    installed = ({"name": name, "goal": f"installed: {place}"} for name, place in registry.installed().items())
    rows = [*registry.described(), *installed]
    if format is Format.JSON:
        yield json.dumps(rows, indent=2)
        return
    for row in rows:
        access = f"{row.get('access', ''):<12} " if kind is Kind.ATTACKS else ""
        yield f"{row['name']:<12} {access}{row['goal']}"


def print_shown(name: str, console: Console) -> None:
    """Prints what is known of one; of an attack what it searches over, on a language model and 100 forget items.

    Raises:
        InputError: nothing has this name.
    """
    from redteam.reporting.described import print_described, print_space

    for kind in [_own(name)] if ".py:" in name else Kind:
        registry = registry_of(kind.value)
        if name in registry.rows() or ".py:" in name:
            stage = STAGES.declared("then") if kind is Kind.METHODS else None
            print_described(kind.value.removesuffix("s"), name, registry.said(name), stage, console)
            if kind is Kind.ATTACKS:
                from redteam.attacks.described import example_space

                print_space(example_space(ATTACKS.whole(name)), console)
            return
    raise InputError(f"nothing is named {name!r}", "See `redteam list attacks`, probes, scorers, methods, testbeds")


def _own(place: str) -> Kind:
    """Returns what a class of the user's own is, by what it has; an attack, if it is nothing else."""
    made = ATTACKS.create(place)
    return Kind.SCORERS if not SCORERS.lacking(made) else Kind.ATTACKS
