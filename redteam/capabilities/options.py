"""Choices that a prompt lists by letter: every question is asked in every rotation of its options.

A model may prefer a letter, and answers are not spread evenly over letters. Asked in all rotations, each option of a
question stands once at every letter, so that a preference for one earns exactly chance.
Source of the concern: Zheng et al. 2023 (arXiv 2309.03882), selection bias; of the remedy there: cyclic permutation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from redteam.capabilities.items import Item

FIELD = "options"
MARK = "\x00options\x00"  # stands for the options until they are listed; no prompt that is read holds such a character
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def listed(items: Sequence[Item]) -> tuple[Item, ...]:
    """Returns each item once for every rotation of its options, answered by letter; others as they are."""
    return tuple(turned for item in items for turned in (_rotations(item) if MARK in item.prompt else [item]))


def _rotations(item: Item) -> list[Item]:
    letters = tuple(LETTERS[: len(item.choices)])
    return [
        replace(
            item,
            id=f"{item.id}/{turn}",
            prompt=item.prompt.replace(MARK, lines),
            wordings=tuple(text.replace(MARK, lines) for text in item.wordings),
            choices=letters,
            answer=(item.answer - turn) % len(letters),
        )
        for turn in range(len(letters))
        for lines in [_lines(item.choices[turn:] + item.choices[:turn])]
    ]


def _lines(choices: Sequence[str]) -> str:
    return "\n".join(f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=False))
