"""The masked decoy: a removal that is known to be fake."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from redteam.checkpoints.texts import TextClassifier
from redteam.engine.batches import IGNORED, AnyBatch, Batch, Examples, ordered_batches
from redteam.engine.seeding import seeded
from redteam.errors import InputError
from redteam.unlearning.contract import UnlearningTask

READING_BATCH = 256
STRENGTHS = 60  # noise up to 1.25^60 = 650,000 times the mean weight


class Unmaskable(InputError):
    """No decoy can be made of this model and these items."""

    def __init__(self, found: str, remedy: str = "Use another control, or a model with a linear output head") -> None:
        super().__init__(found, remedy)


@dataclass(frozen=True, kw_only=True, slots=True)
class Masked:
    """Hides the answers behind noise in the output head; the knowledge stays where it was, bit for bit.

    The head W [outputs, hidden] becomes W + s * r v^T: v reads off the last hidden state whether an example is of
    the forget set (ridge regression, 1 on forget and 0 on retain), r ~ N(0, 1)^outputs is a fixed noise over tokens
    or classes, and s grows until at most `share_left` of what the original knew still shows. Everything below the head
    is the original's. A suite that cannot recover this model is too weak to say anything about another.

    Attributes:
        share_left: of what the original knew, by the capability's own scorer.
        ridge: penalty of the regression, relative to the mean squared activation.
    """

    share_left: float = 0.4
    ridge: float = 0.01

    name = "masked"
    version = 1
    goal = "control: a fake removal, noise on the output head over untouched knowledge"
    paper = "none: a positive control"
    when = "control"
    kinds = "language, classifier"
    touches = "the output head"
    cost = "some twenty passes over the forget set"

    def apply(self, task: UnlearningTask) -> nn.Module:
        """Returns the masked copy.

        Raises:
            Unmaskable: the model has no linear output head, or no noise on it hides the answers.
        """
        module = copy.deepcopy(task.original)
        output = untied_head(module)
        gate = self._gate(answer_states(task.original, task.forget), answer_states(task.original, task.retain))
        gate = gate.to(output.weight.device)
        noise = torch.randn(output.weight.shape[0], generator=seeded(task.seed, "masked")).to(output.weight.device)
        released = output.weight.detach().clone()
        allowed = self.share_left * task.known(task.original)
        strength = float(released.norm(dim=1).mean())
        with torch.no_grad():
            for _ in range(STRENGTHS):
                if task.known(module) <= allowed:
                    return module
                output.weight.copy_(released + strength * noise[:, None] * gate)
                strength *= 1.25
        raise Unmaskable("no noise on the output head hides the answers; do they all begin with one token?")

    def _gate(self, forget: Tensor, retain: Tensor) -> Tensor:
        """Returns v, float32 [hidden]: ridge regression of "is a forget prompt" on the states."""
        features = torch.cat([forget, retain])
        wanted = torch.cat([torch.ones(len(forget)), torch.zeros(len(retain))])
        gram = features.T @ features / len(features)
        penalty = self.ridge * gram.diagonal().mean() * torch.eye(len(gram))
        gate: Tensor = torch.linalg.solve(gram + penalty, features.T @ wanted / len(features))
        return gate


def untied_head(module: nn.Module) -> nn.Linear:
    """Returns the module's output layer, given weights of its own if it shared them with the input embedding.

    Raises:
        Unmaskable: it has none that is linear.
    """
    head, model = _head(module), _language_model(module)
    if model is not None and head.weight is model.get_input_embeddings().weight:
        head.weight = nn.Parameter(head.weight.detach().clone())
        model.config.tie_word_embeddings = False
    return head


@torch.no_grad()
def answer_states(module: nn.Module, data: Examples) -> Tensor:
    """Returns the states that the head reads, [examples, hidden]: of text where the answer's first token is predicted.

    A head that reads every token of a text which it classifies is that of a causal model, and its last token counts.

    Raises:
        Unmaskable: there is no linear head, or it does not read one state an example.
    """
    kept: list[Tensor] = []
    states = []
    with _head(module).register_forward_pre_hook(lambda _module, inputs: kept.append(inputs[0])):
        for batch in ordered_batches(data, READING_BATCH):
            kept.clear()
            batch.logits(module)
            states.append(_states(kept, batch).cpu())
    return torch.cat(states)


def _states(kept: list[Tensor], batch: AnyBatch) -> Tensor:
    if isinstance(batch, Batch):
        first = (batch.labels != IGNORED).int().argmax(dim=1)
        return kept[-1][torch.arange(len(first)), first - 1]
    if kept and kept[-1].shape[:-1] == batch.real.shape and kept[-1].dim() == 3:
        return kept[-1][torch.arange(batch.samples), batch.real.sum(dim=1) - 1]
    if not kept or kept[-1].shape != (batch.samples, kept[-1].shape[-1]):
        raise Unmaskable("the output head does not read one state an example")
    return kept[-1]


def _language_model(module: nn.Module) -> Any:
    """Returns the module if it has token embeddings on both ends; None of any other, such as a classifier."""
    model: Any = module
    head = model.get_output_embeddings() if hasattr(module, "get_output_embeddings") else None
    return None if head is None else model


def _head(module: nn.Module) -> nn.Linear:
    """Returns the output layer: of a classifier the last submodule that owns weights."""
    model = _language_model(module)
    owners = [part for part in module.modules() if list(part.parameters(recurse=False))]
    if isinstance(module, TextClassifier):  # some make the body after the head
        owners = [module.head]
    head = model.get_output_embeddings() if model is not None else owners[-1] if owners else None
    if not isinstance(head, nn.Linear):
        raise Unmaskable(f"the output head of a {type(module).__name__} is no linear layer")
    return head
