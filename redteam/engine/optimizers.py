"""Optimizers and learning-rate schedules by the names that parameters spaces use."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

Schedule = Literal["constant", "cosine", "one-cycle"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Tuning:
    """How weights are moved.

    Attributes:
        optimizer: "adamw" (betas .9, .999) or "sgd" (momentum .9).
        learning_rate: its peak.
        schedule: "constant"; "cosine" to zero; "one-cycle": linear warm-up over the first tenth, then cosine.
        steps: length of the schedule, in optimizer steps.
        clip: largest norm of the whole gradient, or None.
    """

    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float
    schedule: Schedule = "constant"
    steps: int
    clip: float | None = None


def build_optimizer(parameters: Iterable[nn.Parameter], tuning: Tuning) -> torch.optim.Optimizer:
    """Returns a new optimizer over `parameters`, without weight decay."""
    if tuning.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=tuning.learning_rate, weight_decay=0.0, fused=True)
    return torch.optim.SGD(parameters, lr=tuning.learning_rate, momentum=0.9, fused=True)


def rate_at(step: int, tuning: Tuning) -> float:
    """Returns the learning rate of optimizer step `step`, counted from 0."""
    if tuning.schedule == "constant":
        return tuning.learning_rate
    warm_up = math.ceil(tuning.steps / 10) if tuning.schedule == "one-cycle" else 0
    if step < warm_up:
        return tuning.learning_rate * (step + 1) / warm_up
    progress = (step - warm_up) / max(1, tuning.steps - warm_up)
    return tuning.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))
