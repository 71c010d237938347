"""What probes of outputs have in common: answers drawn blindly as a control, the original, and half of the way back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import nn

from redteam.capabilities.reading import Chosen, encode_chosen
from redteam.engine.seeding import seeded
from redteam.errors import InputError
from redteam.probes.contract import ProbeContext


def encoded_parts(view: ProbeContext, *parts: str) -> list[Chosen]:
    """Returns the items of some splits ("select", "utility", ...) in the form that scorers take."""
    return [encode_chosen(view.capability, getattr(view.capability, part), view.tokenizer) for part in parts]


def drawn_answers(encoded: Chosen, seed: int) -> Chosen:
    """Returns the items with a right answer drawn blindly from each item's own choices: what a control is scored on.

    Drawn, not permuted: items need not share their choices, and of one forgotten class all answers are the same. The
    right answer may be drawn, so that the control is at chance in expectation whatever the model says.
    """
    uniform = torch.rand(len(encoded), generator=seeded(seed, "control"), dtype=torch.float64)
    return replace(encoded, answers=(uniform * encoded.counts).long())


def open_original(view: ProbeContext) -> nn.Module:
    """Returns the model before unlearning, in evaluation mode.

    Raises:
        InputError: it was not given.
    """
    if view.original is None:
        raise InputError("this probe needs the model before unlearning", "Give it with --original")
    return view.original().eval()


def half_returned(scores: Mapping[str, float], start: float, end: float) -> str | None:
    """Returns the first place whose score is at least halfway from `start` to `end`; None if there is none."""
    return next((place for place, score in scores.items() if score >= (start + end) / 2), None)
