"""Does a model say the same when it is asked again?"""

from __future__ import annotations

import torch
from torch import Tensor

from redteam.capabilities.reading import encode_scoring
from redteam.capabilities.scorers.failures import NotFinite, answerable
from redteam.setting import Setting

AT_A_TIME = 5  # items asked together; scoring takes hundreds
MOST = 100  # items asked again
APART = 1e-2  # of log-likelihoods or logits: far more than rounding in float32, far less than what dropout does


def share_unsteady(setting: Setting) -> float:
    """Returns of which share of select items the model says something else when asked a few at a time, last first.

    What it says must be a function of weights and item alone. It is not where dropout goes on after training, where a
    batch is normalised by its own statistics, or where padding is read; whatever is compared then was partly drawn.
    """
    items, said = setting.capability.select[-MOST:], setting.says[-MOST:]
    scorer = setting.capability.utility_scorer  # whatever else an item is held against need not be read again
    apart: list[Tensor] = []
    for end in range(len(items), 0, -AT_A_TIME):
        some = slice(max(0, end - AT_A_TIME), end)
        encoded = encode_scoring(setting.capability, items[some], setting.target.tokenizer, scorer)
        try:
            with answerable(setting.scorers["select"]):
                again = encoded.table(setting.target.module)
        except NotFinite:  # it was finite a moment ago
            apart.append(torch.ones(len(encoded), dtype=torch.bool))
            continue
        same = torch.isclose(again, said[some, : again.shape[1]], rtol=APART, atol=APART)
        apart.append(~same.all(dim=1))
    return float(torch.cat(apart).double().mean())
