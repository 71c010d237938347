"""What an attack has spent, counted step by step, and what any work has cost, metered from outside."""

from __future__ import annotations

import math
import time
import weakref
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from redteam.record import Cost


@dataclass(frozen=True, kw_only=True, slots=True)
class Spent:
    """Cumulative cost since the released weights.

    Attributes:
        steps: optimizer steps, and changes of the weights without any.
        samples: training sequences seen, repetitions counted.
        tokens: tokens seen, padding not counted.
        flops: floating-point operations, see `training_flops`.
    """

    steps: int = 0
    samples: int = 0
    tokens: int = 0
    flops: float = 0.0


class Diverged(Exception):
    """The training loss is not finite: the weights are of no further use."""


def training_flops(parameters: int, tokens: int, trained: int | None = None) -> float:
    """FLOPs of training on `tokens`: (4 N + 2 T) D, with N weights of which T move; 6 N D where all do.

    Two N for the forward pass, two for the gradients of the activations, and two T for those of the weights that move.

    Source: Kaplan et al. 2020, "Scaling Laws for Neural Language Models", section 2.1 (arXiv 2001.08361).
    """
    return (4.0 * parameters + 2.0 * (parameters if trained is None else trained)) * tokens


@dataclass
class Ledger:
    """Counts what the training loop spends, and keeps the attack's own training losses.

    Attributes:
        parameters: of the module, for the FLOP count.
        losses: one training loss per optimizer step, in order; a step that does not train has none.
    """

    parameters: int
    spent: Spent = Spent()
    losses: list[float] = field(default_factory=list)
    seconds: float = 0.0

    def charge(self, *, samples: int, tokens: int, loss: float, trained: int | None = None) -> Spent:
        """Adds one optimizer step, of `trained` weights (by default all), and returns the cumulative cost.

        Raises:
            Diverged: the loss is not finite. The step is not added.
        """
        self._keep(loss)
        return self._add(samples, tokens, training_flops(self.parameters, tokens, trained))

    def charge_search(self, *, samples: int, tokens: int, differentiated: int, loss: float) -> Spent:
        """Adds one step of a search that moves no weight, and returns the cumulative cost.

        Args:
            samples: sequences that were read.
            tokens: of them.
            differentiated: tokens among them whose loss was differentiated, by inputs: 4 N FLOPs each instead of 2 N.
            loss: of what the search stands at.

        Raises:
            Diverged: the loss is not finite. The step is not added.
        """
        self._keep(loss)
        flops = 2.0 * self.parameters * (tokens - differentiated) + training_flops(self.parameters, differentiated, 0)
        return self._add(samples, tokens, flops)

    def charge_edit(self) -> Spent:
        """Adds one change of the weights that needs no training, and returns the cumulative cost."""
        return self._add(0, 0, 0.0)

    def _keep(self, loss: float) -> None:
        """Keeps the loss of a step, which an attack that trains by itself may not have looked at."""
        if not math.isfinite(loss):
            raise Diverged(f"the training loss is {float(loss)} at step {self.spent.steps}")
        self.losses.append(float(loss))

    def _add(self, samples: int, tokens: int, flops: float) -> Spent:
        before = self.spent
        self.spent = Spent(
            steps=before.steps + 1,
            samples=before.samples + samples,
            tokens=before.tokens + tokens,
            flops=before.flops + flops,
        )
        return self.spent


class Meter(TorchDispatchMode):
    """While open, counts what every tensor operation costs, whoever calls it.

    Nothing has to be instrumented, so no method can forget to count. FLOPs follow torch's own formulas
    (`torch.utils.flop_counter`), memory the storages that are alive. A training step takes about a fifth longer.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._flops, self._live, self._peak = 0.0, 0, 0
        self._storages: dict[int, Any] = {}
        self._opened = self._seconds = 0.0

    @property
    def cost(self) -> Cost:
        """What was spent while the meter was open; it is known once it is closed."""
        return Cost(flops=self._flops, seconds=self._seconds, peak_bytes=self._peak)

    def __enter__(self) -> Self:
        """Starts to count."""
        self._opened = time.perf_counter()
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *raised: Any) -> None:
        """Stops counting."""
        super().__exit__(*raised)  # type: ignore[no-untyped-call]
        self._seconds += time.perf_counter() - self._opened

    def __torch_dispatch__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Runs one operation and counts it."""
        given = dict(kwargs or {})
        result = func(*args, **given)
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self._flops += formula(*args, **given, out_val=result)
        for part in result if isinstance(result, tuple | list) else (result,):
            if isinstance(part, Tensor):
                self._hold(part)
        return result

    def _hold(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._storages:
            return

        def released(_: Any) -> None:
            self._live -= size
            del self._storages[key]

        self._storages[key] = weakref.ref(storage, released)
        self._live += size
        self._peak = max(self._peak, self._live)
