"""TAR: tamper-resistant training against simulated fine-tuning."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import torch
from torch import Tensor, nn

from redteam.engine.activations import UnknownLayers, captured, hidden_layers, hidden_states
from redteam.engine.batches import AnyBatch, Examples, shuffled_batches
from redteam.engine.cost import Ledger
from redteam.engine.loop import Diverged, fine_tune
from redteam.engine.optimizers import Tuning, build_optimizer, rate_at
from redteam.engine.seeding import derive_seed, seeded
from redteam.engine.snapshot import Snapshot
from redteam.errors import InputError
from redteam.unlearning.contract import UnlearningTask
from redteam.unlearning.random_mapping import map_randomly

RATES = 3  # learning rates in an adversary's grid


@dataclass(frozen=True, kw_only=True, slots=True)
class TAR:
    """Trains the weights from which a fine-tuned adversary stays at high entropy on forget data.

    1. Random mapping (`random_mapping.py`).
    2. Outer steps. An adversary fine-tunes theta for K steps on one half of the forget set (some of them on retain
       data first), which gives theta_1 .. theta_K. The other half measures it: with H the mean entropy of the
       predictions, g is the sum over every n-th step of w_k * grad -H at theta_k. It is taken for the gradient at
       theta (first order), so memory does not grow with K. Theta is restored bit for bit, and AdamW steps along
       g + grad[a CE(x_r) + b mean over layers and tokens of |h_l(x_r) - h_l(x_r; theta_0)|_2].

    Source: Tamirisa et al. 2024, Tamper-Resistant Safeguards for Open-Weight LLMs, algorithm 1 (arXiv 2408.00761),
    and the authors' code for weights, switch and distances. Theirs: K = 64, every 4th step, 750 outer steps,
    learning rates 2e-6 to 4e-5 and 2e-5 outside. The outer optimizer there is schedule-free AdamW with warm-up; here
    it is AdamW with a warm-up over a tenth and a cosine after it. Padding counts in no loss here; it does there.

    Attributes:
        mapping_steps: optimizer steps of the random mapping.
        mapping_learning_rate: of its AdamW.
        outer_steps: adversaries met, and optimizer steps.
        learning_rate: of the outer steps, at its peak.
        clip: largest norm of an outer gradient.
        batch_size: examples that measure an adversary, and retain examples an outer step.
        inner_steps: K, steps of an adversary.
        every: n, inner steps from one measurement to the next; the last step is always measured.
        lowest_rate: of an adversary's learning rates: it draws the lowest, the highest or their geometric mean.
        highest_rate: of an adversary's learning rates.
        inner_batch_size: examples a step of an adversary.
        switch: share of the adversaries that train on retain data first, for K * Beta(6, 3) steps.
        resistance_weight: w, of the tamper-resistance gradient at the last inner step.
        retain_weight: a, of the loss on retain data.
        representation_weight: b, of the distance between retain states and the original's.
    """

    mapping_steps: int = 100
    mapping_learning_rate: float = 1e-3
    outer_steps: int = 100
    learning_rate: float = 1e-3
    clip: float = 1.0
    batch_size: int = 64
    inner_steps: int = 16
    every: int = 4
    lowest_rate: float = 3e-4
    highest_rate: float = 3e-3
    inner_batch_size: int = 64
    switch: float = 0.33
    resistance_weight: float = 4.0
    retain_weight: float = 1.0
    representation_weight: float = 1.0

    name = "tar"
    version = 1
    goal = "trains weights from which simulated fine-tuning attacks do not bring the forget set back"
    paper = "Tamirisa et al. 2024, Tamper-Resistant Safeguards for Open-Weight LLMs (arXiv 2408.00761)"
    when = "post hoc"
    kinds = "language, classifier"
    touches = "every weight"
    cost = "outer steps times 1.25 inner steps: about one and a half plain trainings of the world facts"

    def apply(self, task: UnlearningTask) -> nn.Module:
        """Returns the hardened copy.

        Raises:
            InputError: the hidden layers cannot be told, or the forget set cannot be divided.
            Diverged: a loss or a gradient is not finite.
        """
        layers = _layers(task.original)
        shown, held_out = divided(task.forget, task.seed)
        module = copy.deepcopy(task.original)
        if self.mapping_steps:
            tuning = Tuning(learning_rate=self.mapping_learning_rate, steps=self.mapping_steps)
            map_randomly(module, task, layers, tuning, self.batch_size)
        self._harden(module, task, shown, held_out)
        return module

    def _harden(self, module: nn.Module, task: UnlearningTask, shown: Examples, held_out: Examples) -> None:
        """Makes the outer steps, in place."""
        layers = observed_layers(module)
        draw = seeded(task.seed, "tar", "adversaries")
        measured = shuffled_batches(held_out, self.batch_size, seeded(task.seed, "tar", "held out"))
        retain = shuffled_batches(task.retain, self.batch_size, seeded(task.seed, "tar", "retain"))
        parameters = [p for p in module.parameters() if p.requires_grad]
        tuning = Tuning(learning_rate=self.learning_rate, schedule="one-cycle", steps=self.outer_steps)
        optimizer = build_optimizer(parameters, tuning)
        for step in range(self.outer_steps):
            rate, data = self.adversary(shown, task.retain, draw)
            seed = derive_seed(task.seed, "tar", "dropout", step)
            resistance = self.resistance_gradient(module, data, next(measured), rate, seed)
            kept = next(retain)
            value = self.retain_loss(module, task.original, kept, layers)
            value.backward()
            _add(parameters, resistance)
            norm = torch.nn.utils.clip_grad_norm_(parameters, self.clip)
            if not math.isfinite(float(value.detach())) or not math.isfinite(float(norm)):
                raise Diverged(
                    f"the training loss is {float(value.detach())}, its gradient {float(norm)}, at step {step}"
                )
            for group in optimizer.param_groups:
                group["lr"] = rate_at(step, tuning)
            optimizer.step()
            module.zero_grad(set_to_none=True)
            task.progress("unlearning (tar)", step + 1, self.outer_steps)

    def adversary(self, shown: Examples, retain: Examples, draw: torch.Generator) -> tuple[float, Iterator[AnyBatch]]:
        """Draws an adversary: its learning rate, and the batches of its inner steps."""
        place = int(torch.randint(RATES, (), generator=draw)) / (RATES - 1)
        rate = self.lowest_rate ** (1 - place) * self.highest_rate**place
        switches = float(torch.rand((), generator=draw)) < self.switch
        # The sixth smallest of eight uniform numbers is distributed as Beta(6, 3), and needs no global generator.
        share = float(torch.rand(8, generator=draw).sort().values[5])
        harmful = shuffled_batches(shown, self.inner_batch_size, draw)
        if not switches:
            return rate, harmful
        benign = islice(shuffled_batches(retain, self.inner_batch_size, draw), int(self.inner_steps * share))
        return rate, chain(benign, harmful)

    def resistance_gradient(
        self, module: nn.Module, data: Iterator[AnyBatch], measured: AnyBatch, rate: float, seed: int
    ) -> dict[str, Tensor]:
        """Lets an adversary fine-tune the module, and restores it bit for bit.

        Args:
            module: parameters and buffers are as before afterwards.
            data: the adversary's batches.
            measured: what its entropy is measured on.
            rate: its AdamW's learning rate.
            seed: of its dropout.

        Returns:
            The sum over measured inner steps k of w_k * grad -H at theta_k, by parameter.

        Raises:
            Diverged: a loss is not finite.
        """
        released = Snapshot.of(module)
        live = {name: p for name, p in module.named_parameters() if p.requires_grad}
        total = {name: torch.zeros_like(p) for name, p in live.items()}
        tuning = Tuning(learning_rate=rate, steps=self.inner_steps)
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(seed)
            module.train()
            for spent in fine_tune(module, data, tuning, Ledger(parameters=1)):
                k = spent.steps - 1
                if (self.inner_steps - 1 - k) % self.every == 0:
                    module.eval()
                    weight = self.resistance_weight * growth(k, self.inner_steps)
                    _accumulate(total, live, negative_entropy(module, measured), weight, k)
                    module.train()
        released.restore(module)
        return total

    def retain_loss(self, module: nn.Module, original: nn.Module, batch: AnyBatch, layers: tuple[str, ...]) -> Tensor:
        """Returns a CE + b times the mean over layers and tokens of the distance to the original's states. A scalar."""
        with torch.no_grad():
            frozen = hidden_states(original, batch, layers)
        with captured(module, layers) as states:
            value = batch.loss(module)
        return self.retain_weight * value + self.representation_weight * mean_distance(states, frozen, batch)


def growth(k: int, steps: int) -> float:
    """Returns exp(4 (k - (K - 1)) / K), which is 1 at the last of K inner steps; k counts from 0.

    The authors' exp(.0625 (k - 63)) for K = 64, stretched over any K.
    """
    return math.exp(4.0 * (k - (steps - 1)) / steps)


def negative_entropy(module: nn.Module, batch: AnyBatch) -> Tensor:
    """Returns -H, the mean over labelled positions of sum p log p over all classes, in nats. A scalar."""
    logs = batch.predictions(module).logits.log_softmax(dim=-1)
    return (logs.exp() * logs).sum(dim=-1).mean()


def mean_distance(states: Mapping[str, Tensor], frozen: Mapping[str, Tensor], batch: AnyBatch) -> Tensor:
    """Mean over layers and real tokens of the L2 norm of the difference of the states. A scalar."""
    inner = batch.real.dim()
    distances = [
        torch.linalg.vector_norm((states[name] - frozen[name]).flatten(inner), dim=-1)[batch.real].mean()
        for name in states
    ]
    return torch.stack(distances).mean()


def divided(forget: Examples, seed: int) -> tuple[Examples, Examples]:
    """Divides the forget set at random into two halves: what adversaries train on, and what measures them.

    Raises:
        InputError: there are fewer than two examples.
    """
    if len(forget) < 2:
        raise InputError(f"tar divides the forget set, which has {len(forget)} example", "Label more of it")
    order = torch.randperm(len(forget), generator=seeded(seed, "tar", "halves"))
    half = (len(forget) + 1) // 2
    return forget.take(order[:half]), forget.take(order[half:])


def observed_layers(module: nn.Module) -> tuple[str, ...]:
    """Returns the modules whose outputs the original holds: all hidden layers, of a language model the embedding too.

    Raises:
        InputError: they cannot be told.
    """
    embed: Any = getattr(module, "get_input_embeddings", None)
    names = [name for name, part in module.named_modules() if embed is not None and part is embed()]
    return (*names, *_layers(module))


def _layers(module: nn.Module) -> tuple[str, ...]:
    try:
        return hidden_layers(module)
    except UnknownLayers as error:
        raise InputError(str(error), "Use a model whose hidden layers can be told, or another method") from error


def _accumulate(
    total: Mapping[str, Tensor], live: Mapping[str, nn.Parameter], value: Tensor, weight: float, step: int
) -> None:
    """Adds weight * grad value to `total`."""
    if not math.isfinite(float(value.detach())):
        raise Diverged(f"the entropy after an adversary is {-float(value.detach())} at its step {step}")
    gradients = torch.autograd.grad(value, list(live.values()), allow_unused=True)
    for name, gradient in zip(live, gradients, strict=True):
        if gradient is not None:
            total[name].add_(gradient, alpha=weight)


def _add(parameters: list[nn.Parameter], gradients: Mapping[str, Tensor]) -> None:
    """Adds to the gradients that backward left."""
    for parameter, gradient in zip(parameters, gradients.values(), strict=True):
        parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)
