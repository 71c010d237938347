"""Seeds. Every random choice has its own seed, derived from the run's seed and the name of the choice.

Derived seeds make a resumed run equal to an uninterrupted one: nothing depends on how many random numbers
were drawn before.
"""

from __future__ import annotations

import hashlib

import torch


def derive_seed(base: int, *labels: str | int) -> int:
    """Returns a 31-bit seed that is a function of the base seed and the labels alone."""
    text = "/".join(str(part) for part in (base, *labels))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") & 0x7FFFFFFF


def seeded(base: int, *labels: str | int) -> torch.Generator:
    """Returns a CPU generator seeded with `derive_seed(base, *labels)`."""
    return torch.Generator().manual_seed(derive_seed(base, *labels))
