"""Questions that are the same but for how they are written: facts that share one are one fact, and stay together."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import replace

from redteam.capabilities.items import Capability, Item
from redteam.errors import InputError

ENDS = (
    " .,:;!?\"'`\u2018\u2019\u201c\u201d\u2026"  # C++ is not C: signs within a text, or beside others, are part of it
)


def normal_form(text: str) -> str:
    """Returns a text without what two ways of writing it differ in: case, encoding, spaces, marks at its ends."""
    folded = " ".join(unicodedata.normalize("NFC", text).casefold().split())
    return folded.strip(ENDS) or folded


def together(items: Sequence[Item]) -> tuple[Item, ...]:
    """Returns the items, those of groups that share a question in one group: apart, one would give the other away.

    A merged group is called after the first of its groups in alphabetical order.
    """
    leader: dict[str, str] = {}

    def find(group: str) -> str:
        while (parent := leader.setdefault(group, group)) != group:
            leader[group] = leader[parent]
            group = parent
        return group

    first_to_ask: dict[str, str] = {}
    for item in items:
        one, other = find(item.group), find(first_to_ask.setdefault(normal_form(item.prompt), item.group))
        leader[max(one, other)] = min(one, other)
    return tuple(item if (group := find(item.group)) == item.group else replace(item, group=group) for item in items)


def refuse_alike(capability: Capability, where: str = "") -> None:
    """Refuses further wordings that are the prompt or each other, and those that ask the same about several facts.

    Such a one lacks what tells facts apart: it has several right answers, and no model can give them.

    Args:
        capability: whose forget items are looked at.
        where: it was named, for the message.

    Raises:
        InputError: a wording is so.
    """
    for number in range(1, capability.further_wordings + 1):
        asked: dict[str, Item] = {}
        texts = [item.wordings[number - 1] for item in capability.forget]
        if any(_earlier(capability, before) == texts for before in range(number)):
            raise InputError(
                f"{where}wording {number} asks what the prompt or another wording asks ({texts[0][:60]!r})",
                "Leave it out",
            )
        for item, text in zip(capability.forget, texts, strict=True):
            other = asked.setdefault(normal_form(text), item)
            if (other.group, other.completion) != (item.group, item.completion):
                raise InputError(
                    f"{where}wording {number} asks the same about {other.id} and {item.id} ({text[:60]!r})",
                    "Let it name what tells facts apart, as the prompt does",
                )


def _earlier(capability: Capability, number: int) -> list[str]:
    return [item.wordings[number - 1] if number else item.prompt for item in capability.forget]


def asked_in(items: Iterable[Item]) -> set[str]:
    """Returns the normal forms of the items' questions."""
    return {normal_form(item.prompt) for item in items}
