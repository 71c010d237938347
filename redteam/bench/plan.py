"""Which targets are built and attacked."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from redteam.errors import InputError
from redteam.registry import METHODS, TESTBEDS

SEEDS = (0, 1, 2)
# Where few images are identified a trojan is healed or it is not: an interval over three seeds says nothing.
MORE_SEEDS: dict[str, tuple[int, ...]] = {"poison": tuple(range(8))}
# Models that never knew, where one takes seconds: how they differ is part of the verdict. One elsewhere.
REFERENCES: dict[str, int] = {"digits": 3, "poison": 3}
REAL_DATA = ("birthdays",)
# Every method with all labels is always there; these are the variations that the six questions ask for.
PARTIAL: dict[str, tuple[tuple[str, ...], tuple[float, ...]]] = {
    "facts": (("filtered", "routing", "sgtm", "rmu", "graddiff"), (0.0, 0.1, 0.25, 0.5)),
    "poison": (("filtered", "ssd", "potion"), (0.01, 0.05, 0.1, 0.25, 0.5)),
}
THEN: dict[str, dict[str, tuple[str, ...]]] = {
    "facts": {
        "retain": ("ssd", "potion", "rmu", "routing", "sgtm"),
        "mixture": ("routing", "sgtm"),
    },
    "digits": {"retain": ("ssd", "potion", "routing", "sgtm"), "mixture": ("routing", "sgtm")},
    "birthdays": {"retain": ("ssd", "potion")},
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One target of the table.

    Attributes:
        testbed: where it lives.
        method: that made it.
        label_fraction: share of the forget set that the method was told of.
        then: the stage after it: "", "retain" or "mixture".
        seed: of world, training, method and attack.
    """

    testbed: str
    method: str
    label_fraction: float = 1.0
    then: str = ""
    seed: int = 0

    @property
    def variant(self) -> str:
        """Names the cell but for its seed: "facts-rmu", "facts-sgtm-0.25", "facts-ssd-then-retain"."""
        parts = [self.testbed, self.method]
        if self.label_fraction != 1:
            parts.append(f"{self.label_fraction:g}")
        if self.then:
            parts.append(f"then-{self.then}")
        return "-".join(parts)

    @property
    def name(self) -> str:
        """Names the cell."""
        return f"{self.variant}-seed{self.seed}"


def plan_cells(
    testbeds: Sequence[str] = (),
    methods: Sequence[str] = (),
    label_fractions: Sequence[float] = (),
    seeds: Sequence[int] = (),
) -> tuple[Cell, ...]:
    """Returns the cells to run; what is not narrowed down is the standard table.

    Raises:
        InputError: an unknown name, or a share outside [0, 1].
    """
    for registry, names in ((TESTBEDS, testbeds), (METHODS, methods)):
        for name in names:
            registry.require(name)
    for fraction in label_fractions:
        if not 0 <= fraction <= 1:
            raise InputError(f"the label fraction is {fraction}", "Give a share between 0 and 1")
    cells = [
        cell
        for testbed in testbeds or (name for name in TESTBEDS.table if name not in left_out())
        for cell in dict.fromkeys(_variants(testbed, label_fractions))
        if not methods or cell.method in methods
    ]
    return tuple(replace(cell, seed=seed) for cell in cells for seed in seeds or MORE_SEEDS.get(cell.testbed, SEEDS))


def left_out() -> tuple[str, ...]:
    """Returns the testbeds that need data which is not there: the standard table goes without them."""
    return () if "REDTEAM_DATA" in os.environ else REAL_DATA


def _variants(testbed: str, label_fractions: Sequence[float]) -> Iterator[Cell]:
    kind = next(row["kinds"] for row in TESTBEDS.described() if row["name"] == testbed)
    works = [row["name"] for row in METHODS.described() if kind in row["kinds"]]
    for method in works:
        for fraction in label_fractions or (1.0,):
            yield Cell(testbed=testbed, method=method, label_fraction=fraction)
    if label_fractions:
        return
    partial, fractions = PARTIAL.get(testbed, ((), ()))
    for method in partial:
        for fraction in fractions:
            yield Cell(testbed=testbed, method=method, label_fraction=fraction)
    for then, followed in THEN.get(testbed, {}).items():
        for method in followed:
            yield Cell(testbed=testbed, method=method, then=then)
