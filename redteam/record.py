"""What every file of redteam's is made of: records that know their keys, intervals, and costs."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict


class Record(BaseModel):
    """A frozen record that refuses keys it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)  # built when first used, not on import


# Intervals and costs are computed with as well as written. Plain dataclasses serve both: a record may hold them, and
# checks their keys and types when it is read. The docstring of an interval is in the schemas of what is written.
@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with a 95 % interval."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    estimate: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """What a piece of work took.

    Attributes:
        flops: floating-point operations of its matrix products, convolutions and attention, forward and backward.
        seconds: wall time, the metering included: compare it with other metered work only.
        peak_bytes: most memory that tensors made by it held at one time.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    flops: float
    seconds: float
    peak_bytes: int

    def __add__(self, other: Cost) -> Cost:
        """Returns the cost of one after the other."""
        return Cost(
            flops=self.flops + other.flops,
            seconds=self.seconds + other.seconds,
            peak_bytes=max(self.peak_bytes, other.peak_bytes),
        )
