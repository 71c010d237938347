"""Optimizers and learning-rate schedules by the names that parameters spaces use."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from redteam.engine.relative import Balanced, RelativeAdam, RelativeMomentum, groups_of

Schedule = Literal["constant", "cosine", "one-cycle"]
OptimizerName = Literal["adamw", "sgd", "lion", "muon", "relative", "relative-adam"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Tuning:
    """How weights are moved.

    Attributes:
        optimizer: "adamw" (betas .9, .999), "sgd" (momentum .9), "lion" or "muon", see `Lion` and `Muon`; "relative" or
            "relative-adam", see `RelativeMomentum` and `RelativeAdam`.
        learning_rate: its peak.
        schedule: "constant"; "cosine" to zero; "one-cycle": linear warm-up over the first tenth, then cosine.
        steps: length of the schedule, in optimizer steps.
        clip: largest norm of the whole gradient, or None; see `clip_gradients`.
        weight_decay: decoupled, a share of the learning rate; of SGD an L2 term of the gradient.
    """

    optimizer: OptimizerName = "adamw"
    learning_rate: float
    schedule: Schedule = "constant"
    steps: int
    clip: float | None = None
    weight_decay: float = 0.0


class Lion(torch.optim.Optimizer):
    """Sign descent with two momenta: w -= lr * (sign(b1 m + (1 - b1) g) + decay * w), then m = b2 m + (1 - b2) g.

    Source: Chen et al. 2023, Symbolic Discovery of Optimization Algorithms, algorithm 2 (arXiv 2302.06675), with its
    betas .9 and .99. Deeb & Roger retrain with it.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, weight_decay: float = 0.0) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Moves every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                momentum = self.state[parameter].setdefault("momentum", torch.zeros_like(parameter))
                direction = torch.lerp(parameter.grad, momentum, 0.9).sign_()
                parameter.mul_(1 - group["lr"] * group["weight_decay"]).sub_(direction, alpha=group["lr"])
                momentum.lerp_(parameter.grad, 1 - 0.99)


class Muon(torch.optim.Optimizer):
    """Torch's Muon on matrices (embeddings too), AdamW on the rest; scaled so that one learning rate serves both.

    Source: Jordan et al. 2024, Muon; the scale is that of Liu et al. 2025, Muon is Scalable (arXiv 2502.16982).
    """

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, weight_decay: float = 0.0) -> None:
        super().__init__(parameters, {"lr": lr})
        given = [parameter for group in self.param_groups for parameter in group["params"]]
        matrices, others = [p for p in given if p.ndim == 2], [p for p in given if p.ndim != 2]
        settings: dict[str, Any] = {"lr": lr, "weight_decay": weight_decay}
        self._parts: list[torch.optim.Optimizer] = []
        if matrices:
            self._parts.append(torch.optim.Muon(matrices, adjust_lr_fn="match_rms_adamw", **settings))
        if others:
            self._parts.append(torch.optim.AdamW(others, fused=True, **settings))

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Moves every parameter that has a gradient, at this optimizer's own learning rate."""
        for part in self._parts:
            for group in part.param_groups:
                group["lr"] = self.param_groups[0]["lr"]
            part.step()


def build_optimizer(
    parameters: Iterable[nn.Parameter], tuning: Tuning, module: nn.Module | None = None
) -> torch.optim.Optimizer:
    """Returns a new optimizer over `parameters`; from the module they are in it learns the groups of convolutions."""
    rate, decay = tuning.learning_rate, tuning.weight_decay
    if tuning.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=rate, weight_decay=decay, fused=True)
    if tuning.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=rate, momentum=0.9, weight_decay=decay, fused=True)
    if tuning.optimizer in ("relative", "relative-adam"):
        balanced = RelativeMomentum if tuning.optimizer == "relative" else RelativeAdam
        return balanced(parameters, rate, decay, {} if module is None else groups_of(module))
    return {"lion": Lion, "muon": Muon}[tuning.optimizer](parameters, lr=rate, weight_decay=decay)


def clip_gradients(optimizer: torch.optim.Optimizer, parameters: Iterable[nn.Parameter], largest: float) -> None:
    """Scales the gradients so that the norm of all is at most `largest`, in the units in which the optimizer works."""
    if isinstance(optimizer, Balanced):
        optimizer.clip(largest)
    else:
        torch.nn.utils.clip_grad_norm_(parameters, largest)


def rate_at(step: int, tuning: Tuning) -> float:
    """Returns the learning rate of optimizer step `step`, counted from 0."""
    if tuning.schedule == "constant":
        return tuning.learning_rate
    warm_up = math.ceil(tuning.steps / 10) if tuning.schedule == "one-cycle" else 0
    if step < warm_up:
        return tuning.learning_rate * (step + 1) / warm_up
    progress = (step - warm_up) / max(1, tuning.steps - warm_up)
    return tuning.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))
