"""What an attack has spent."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True, slots=True)
class Spent:
    """Cumulative cost since the released weights.

    Attributes:
        steps: optimizer steps.
        samples: training sequences seen, repetitions counted.
        tokens: tokens seen, padding not counted.
        flops: floating-point operations, see `training_flops`.
    """

    steps: int = 0
    samples: int = 0
    tokens: int = 0
    flops: float = 0.0


def training_flops(parameters: int, tokens: int) -> float:
    """FLOPs of training `parameters` on `tokens`: 6 N D, two for the forward and four for the backward pass.

    Source: Kaplan et al. 2020, "Scaling Laws for Neural Language Models", section 2.1 (arXiv 2001.08361).
    """
    return 6.0 * parameters * tokens


@dataclass
class Ledger:
    """Counts what the training loop spends, and keeps the attack's own training losses.

    Attributes:
        parameters: trained parameters, for the FLOP count.
        losses: one training loss per optimizer step, in order.
    """

    parameters: int
    spent: Spent = Spent()
    losses: list[float] = field(default_factory=list)
    seconds: float = 0.0

    def charge(self, *, samples: int, tokens: int, loss: float) -> Spent:
        """Adds one optimizer step and returns the cumulative cost."""
        before = self.spent
        self.losses.append(loss)
        self.spent = Spent(
            steps=before.steps + 1,
            samples=before.samples + samples,
            tokens=before.tokens + tokens,
            flops=before.flops + training_flops(self.parameters, tokens),
        )
        return self.spent
