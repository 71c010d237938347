"""Random mapping: hidden states of forget data are turned towards fixed random vectors."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from redteam.engine.activations import captured, hidden_states
from redteam.engine.batches import AnyBatch, Batch, shuffled_batches
from redteam.engine.loop import train
from redteam.engine.optimizers import Tuning
from redteam.engine.seeding import derive_seed, seeded
from redteam.unlearning.contract import UnlearningTask


def map_randomly(
    module: nn.Module, task: UnlearningTask, layers: tuple[str, ...], tuning: Tuning, batch_size: int
) -> None:
    """Trains `module` in place: L = CE(x_r) + mean over layers and tokens of 1 - |cos(h_l(x_f), v(token))|.

    Every token of the vocabulary has a vector v ~ N(0, 1)^d of its own, drawn once and the same for all layers of a
    width, so that a state says no more than which token it stands on. An input of a classifier is not made of
    tokens: all share one vector a width, so that a state says nothing of the input.

    Source: Tamirisa et al. 2024, Tamper-Resistant Safeguards (arXiv 2408.00761), section 4 and the authors' code:
    the first stage of TAR.

    Args:
        module: the model.
        task: where the data and the seed come from.
        layers: names of the hidden layers.
        tuning: of the training.
        batch_size: forget examples a step, and as many retain examples.

    Raises:
        Diverged: a loss is not finite.
    """
    retain = shuffled_batches(task.retain, batch_size, seeded(task.seed, "random mapping", "retain"))
    first = task.forget.batch(slice(0, 1))
    with torch.no_grad():
        example = hidden_states(module, first, layers)
    vectors = random_vectors(module, first, example, task.seed)

    def loss(live: nn.Module, forget: AnyBatch) -> Tensor:
        with captured(live, layers) as states:
            forget.logits(live)
        return next(retain).loss(live) + mapping_loss(states, forget, vectors)

    batches = shuffled_batches(task.forget, batch_size, seeded(task.seed, "random mapping", "forget"))
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(derive_seed(task.seed, "random mapping", "dropout"))
        train(
            module,
            batches,
            tuning,
            loss=loss,
            on_step=lambda done: task.progress("mapping at random", done, tuning.steps),
        )


def random_vectors(module: nn.Module, batch: AnyBatch, states: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Returns what each layer's states are turned to, float32 [tokens, width]; one row for a classifier.

    Args:
        module: whose vocabulary counts.
        batch: what the states are of.
        states: layer -> states, as `hidden_states` gives them.
        seed: of the vectors.
    """
    rows = len(_embedding(module)) if isinstance(batch, Batch) else 1
    widths = {name: state.flatten(batch.real.dim()).shape[-1] for name, state in states.items()}
    drawn = {
        width: torch.randn(rows, width, generator=seeded(seed, "random mapping", width))
        for width in set(widths.values())
    }
    return {name: drawn[width] for name, width in widths.items()}


def mapping_loss(states: Mapping[str, Tensor], batch: AnyBatch, vectors: Mapping[str, Tensor]) -> Tensor:
    """Mean over layers and real tokens of 1 - |cos(state, vector of the token)|. A scalar in [0, 1].

    Args:
        states: layer -> [sequences, length, hidden], or of a classifier [samples, ...].
        batch: what the states are of.
        vectors: layer -> [tokens, width].
    """
    rows = batch.input_ids if isinstance(batch, Batch) else torch.zeros_like(batch.labels)
    parts = []
    for name, state in states.items():
        cosine = functional.cosine_similarity(state.flatten(batch.real.dim()), vectors[name][rows], dim=-1)
        parts.append((1 - cosine.abs())[batch.real].mean())
    return torch.stack(parts).mean()


def _embedding(module: nn.Module) -> Tensor:
    weight: Tensor = module.get_input_embeddings().weight  # type: ignore[operator]
    return weight
