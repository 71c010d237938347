"""What a plug-in's class says of itself, read off its source: importing it would cost seconds."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# What a class may say of itself in class attributes.
FACTS = ("version", "goal", "paper", "access", "when", "kinds", "touches", "cost", "needs", "decides")


@dataclass(frozen=True, slots=True)
class Declared:
    """A class as its source declares it.

    Attributes:
        facts: class attributes of `FACTS`.
        options: fields with their defaults.
        meanings: what the docstring says of each field.
        settings: of a testbed: method -> option -> value.
    """

    facts: Mapping[str, Any]
    options: Mapping[str, Any]
    meanings: Mapping[str, str]
    settings: Mapping[str, Mapping[str, Any]]


def declared(source: str, name: str) -> Declared:
    """Reads the class `name` of a module's source."""
    facts: dict[str, Any] = {}
    options: dict[str, Any] = {}
    settings: dict[str, Any] = {}
    found = next(node for node in ast.parse(source).body if isinstance(node, ast.ClassDef) and node.name == name)
    for statement in found.body:
        if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Constant):
            targets = (target.id for target in statement.targets if isinstance(target, ast.Name))
            facts.update(dict.fromkeys(targets, statement.value.value))
        elif isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Attribute):
            targets = (target.id for target in statement.targets if isinstance(target, ast.Name))
            facts.update(dict.fromkeys(targets, statement.value.attr.lower()))  # a member of an enum
        elif isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            if isinstance(statement.value, ast.Constant | ast.UnaryOp):
                options[statement.target.id] = ast.literal_eval(statement.value)
            elif statement.target.id == "settings" and isinstance(statement.value, ast.Dict):
                settings = ast.literal_eval(statement.value)
    facts = {fact: facts[fact] for fact in FACTS if fact in facts}
    return Declared(facts, options, _meanings(ast.get_docstring(found) or ""), settings)


def _meanings(docstring: str) -> dict[str, str]:
    """Returns what the section "Attributes:" says, by name, each in one line."""
    _, _, section = docstring.partition("Attributes:\n")
    section = section.partition("\n\n")[0]
    entries = re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", section, flags=re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in entries}
