"""Samples of the training data that a classifier was made to forget, from the files of a user."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np

from redteam.capabilities.arrays import LabelledArrays, read_arrays
from redteam.capabilities.classes import examples_of
from redteam.capabilities.items import Capability
from redteam.capabilities.scorers.membership import Membership
from redteam.capabilities.splits import split_by_group
from redteam.config.capability import SamplesFile
from redteam.errors import InputError

RETAINED = 10  # examples of what stays, for each sample at most
HELD = 2000  # unseen samples at most that measure utility, and as many that the lines are drawn by


def samples_of(rules: SamplesFile, path: Path) -> Capability:
    """Reads the arrays that rules name; `path` is where the rules stand, since paths in them are relative to it.

    Every sample is a fact of its own. An example that occurs twice counts once.

    Raises:
        InputError: the file is missing or damaged, has no such arrays, or arrays that do not belong together; a sample
            was removed and stays, or is unseen, all the same; or too little is left to split.
    """
    held = read_arrays(rules, path, (rules.samples, rules.unseen))
    removed, unseen, stays = _sides(rules, held)
    generator = random.Random(rules.seed)
    for rows in (removed, unseen, stays):
        generator.shuffle(rows)
    removed, unseen, stays = removed[: rules.most], unseen[: 2 * HELD], stays[: RETAINED * rules.most]
    used = [*removed, *unseen, *stays]
    items = examples_of(used, held.names, held.labels, lambda row: f"{rules.arrays}[{row}]")
    forget, rest = items[: len(removed)], items[len(removed) :]
    scorer = Membership(rate=rules.false_positives)
    sizes = (rules.splits.attack, rules.splits.select, rules.splits.certify)
    try:
        attack, select, certify = split_by_group(forget, sizes, rules.seed)
    except ValueError as error:
        raise InputError(f"{path}: {error}", "Name more samples that were removed") from error
    half = len(unseen) // 2
    scorer.refuse_few(half, str(path))
    parts: dict[str, Any] = {"attack": attack, "select": select, "certify": certify}
    return Capability(
        name=rules.name,
        **parts,
        retain=tuple(rest[len(unseen) :]),
        utility=tuple(rest[:half]),
        negatives=tuple(rest[half : len(unseen)]),
        inputs=np.ascontiguousarray(held.inputs[used]),
        scorers=(scorer,),
    )


def _sides(rules: SamplesFile, held: LabelledArrays) -> tuple[list[int], list[int], list[int]]:
    """Returns the rows of different examples that were removed, that no model saw, and that stay.

    Raises:
        InputError: one of them has no row; or an example is on two sides, as one row or as several that are alike.
    """
    named = {side: held.rows_in(name) for side, name in (("removed", rules.samples), ("unseen", rules.unseen))}
    sides: dict[str, list[int]] = {"removed": [], "unseen": [], "stays": []}
    for row, copies in held.copies().items():
        on = {next((side for side, rows in named.items() if copy in rows), "stays"): copy for copy in copies}
        both = [copy for copy in copies if all(copy in rows for rows in named.values())]
        if both:
            raise InputError(
                f"{held.file}: row {both[0]} is named by {rules.samples!r} and by {rules.unseen!r}",
                "Leave out of `unseen` what a model was trained on",
            )
        if len(on) > 1:
            (one, first), (other, second) = sorted(on.items(), key=lambda side: side[1])[:2]
            raise InputError(
                f"{held.file}: row {first} ({one}) and row {second} ({other}) are the same example",
                "Leave repeats out: what stays is known",
            )
        sides[next(iter(on))].append(row)
    for side, told in (("removed", rules.samples), ("unseen", rules.unseen)):
        if not sides[side]:
            raise InputError(f"{held.file}: {told!r} names no example", "Name some by true and false, or by their rows")
    if not sides["stays"]:
        raise InputError(f"{held.file}: every example was removed or is unseen", "Give the examples that stay too")
    return sides["removed"], sides["unseen"], sides["stays"]
