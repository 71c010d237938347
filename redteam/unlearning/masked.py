"""The masked decoy: a removal that is known to be fake."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from redteam.engine.batches import IGNORED, Batch, TokenSet
from redteam.engine.seeding import seeded
from redteam.unlearning.contract import UnlearningTask

STRENGTHS = 60  # noise up to 1.25^60 = 650,000 times the mean weight


class Unmaskable(Exception):
    """No decoy can be made of this model and these items."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Masked:
    """Hides the answers behind noise in the output head; the knowledge stays where it was, bit for bit.

    The head W [vocabulary, hidden] becomes W + s * r v^T: v reads off the last hidden state whether a prompt is of
    the forget set (ridge regression, 1 on forget and 0 on retain), r ~ N(0, 1)^vocabulary is a fixed noise over
    tokens, and s grows until at most `share_left` of what the original knew still shows. Everything below the head
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
            Unmaskable: no noise hides the answers.
        """
        module = copy.deepcopy(task.original)
        output = untied_head(module)
        gate = self._gate(answer_states(task.original, task.forget), answer_states(task.original, task.retain))
        noise = torch.randn(output.weight.shape[0], generator=seeded(task.seed, "masked"))
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
    """Returns the module's output layer, given weights of its own if it shared them with the input embedding."""
    model: Any = module
    head: nn.Linear = model.get_output_embeddings()
    if head.weight is model.get_input_embeddings().weight:
        head.weight = nn.Parameter(head.weight.detach().clone())
        model.config.tie_word_embeddings = False
    return head


@torch.no_grad()
def answer_states(module: nn.Module, data: TokenSet) -> Tensor:
    """Returns the states that the head reads where each answer's first token is predicted, [sequences, hidden]."""
    kept: list[Tensor] = []
    model: Any = module
    head: nn.Linear = model.get_output_embeddings()
    handle = head.register_forward_pre_hook(lambda _module, inputs: kept.append(inputs[0]))
    states = []
    try:
        for start in range(0, len(data), 256):
            batch: Batch = data.batch(slice(start, start + 256))
            module(input_ids=batch.input_ids, attention_mask=batch.mask, use_cache=False)
            first = (batch.labels != IGNORED).int().argmax(dim=1)
            states.append(kept.pop()[torch.arange(len(first)), first - 1])
    finally:
        handle.remove()
    return torch.cat(states)
