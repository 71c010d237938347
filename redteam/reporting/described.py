"""What is known of an attack, a probe, a scorer, a method or a testbed, for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from redteam.declared import Declared


def print_described(kind: str, name: str, said: Declared, stage: Declared | None, console: Console) -> None:
    """Prints facts, options with their defaults and meanings, and settings.

    Args:
        kind: "attack", "probe", "scorer", "method" or "testbed".
        name: of it.
        said: what it declares.
        stage: what may follow it, if anything.
        console: where to.
    """
    table = _table()
    for field, value in {"kind": kind, "name": name, **said.facts}.items():
        table.add_row(Text(field, "dim"), str(value))
    console.print(table)
    if said.options and stage is not None:
        _print_options("Options (--set NAME=VALUE)", said, "", console)
    if stage is not None:
        _print_options("Options of the stage after it (--then retain or mixture)", stage, "then.", console)
    if said.settings:
        console.print(Text("\nSettings of methods that were found to work here; what is not named keeps its default\n"))
        table = _table()
        for method, settings in said.settings.items():
            table.add_row(method, _assignments(settings))
        console.print(table)


def print_space(space: Mapping[str, str], console: Console) -> None:
    """Prints the ranges of an attack's parameters."""
    console.print(Text("\nSearched over, for a language model and 100 forget items\n"))
    table = _table()
    for parameter, values in space.items():
        table.add_row(parameter, Text(values, "dim"))
    console.print(table)


def _print_options(title: str, said: Declared, prefix: str, console: Console) -> None:
    console.print(Text(f"\n{title}\n"))
    table = _table()
    for option, default in said.options.items():
        table.add_row(_assignments({prefix + option: default}), Text(said.meanings.get(option, ""), "dim"))
    console.print(table)


def _assignments(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={_written(value)}" for name, value in options.items())


def _written(value: Any) -> str:
    """Returns a value as `--set` reads it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _table() -> Table:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    return table
