"""The masked decoy: a removal that is known to be fake."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from redteam.engine.batches import Examples
from redteam.engine.heads import NoHead, head_states, language_model, output_head
from redteam.engine.seeding import seeded
from redteam.errors import InputError
from redteam.unlearning.contract import UnlearningTask

STRIDES, STRIDE, GROWTH = 10, 6, 1.25  # noise up to 1.25^60 = 650,000 times the mean weight


class Unmaskable(InputError):
    """No decoy can be made of this model and these items."""

    def __init__(self, found: str, remedy: str = "Use another control, or a model with a linear output head") -> None:
        super().__init__(found, remedy)


@dataclass(frozen=True, kw_only=True, slots=True)
class Masked:
    """Hides the answers behind noise in the output head; the knowledge stays where it was, bit for bit.

    The head W [outputs, hidden] becomes W + s * r v^T: v reads off the last hidden state whether an example is of
    the forget set (ridge regression, 1 on forget and 0 on retain), r ~ N(0, 1)^outputs is a fixed noise over tokens
    or classes, and s grows until at most `share_left` of what the original knew still shows: in strides, and then step
    by step from the last stride at which more did. Everything below the head is the original's. A suite that cannot
    recover this model is too weak to say anything about another.

    Attributes:
        share_left: of what the original knew, by the capability's own scorer.
        ridge: penalty of the regression, relative to the mean squared activation.
    """

    share_left: float = 0.4
    ridge: float = 0.01

    name = "masked"
    version = 2
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
        known = task.known(task.original)
        allowed = self.share_left * known
        if known <= allowed:
            return module

        noisy = float(released.norm(dim=1).mean()) * noise[:, None] * gate

        def hides(sign: int, step: int) -> bool:
            output.weight.copy_(released + sign * GROWTH**step * noisy)
            return task.known(module) <= allowed

        with torch.no_grad():
            for sign in (1, -1):  # noise that raises the one answer of all examples hides nothing
                for last in range(0, STRIDES * STRIDE + 1, STRIDE):
                    if hides(sign, last):
                        any(hides(sign, step) for step in range(max(0, last - STRIDE + 1), last + 1))  # stops there
                        return module
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
    try:
        head, model = output_head(module), language_model(module)
    except NoHead as error:
        raise Unmaskable(str(error)) from error
    if model is not None and head.weight is model.get_input_embeddings().weight:
        head.weight = nn.Parameter(head.weight.detach().clone())
        model.config.tie_word_embeddings = False
    return head


def answer_states(module: nn.Module, data: Examples) -> Tensor:
    """Returns the states that the head reads, see `head_states`.

    Raises:
        Unmaskable: there is no linear head, or it does not read one state an example.
    """
    try:
        return head_states(module, data)
    except NoHead as error:
        raise Unmaskable(str(error)) from error
