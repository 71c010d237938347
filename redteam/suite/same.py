"""Is this the model that the evidence is about?"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from redteam.errors import InputError
from redteam.evidence import keys
from redteam.evidence.directory import SAMPLES
from redteam.evidence.events import BeforeEvent
from redteam.evidence.log import read_samples
from redteam.judging.checks.measures import UNSTEADY
from redteam.setting import Setting

APART = 0.01  # of an item's score, which is mostly 0 or 1: far more than rounding


def refuse_another(role: str, setting: Setting, path: Path, before: BeforeEvent) -> None:
    """Refuses a model that does not answer as its evidence says it did.

    Tensors do not show all that a module answers by: a hook, a flag on it and code that was edited since are not in
    their digest.

    Args:
        role: of the model.
        setting: the model as it was opened now.
        path: of the run.
        before: what the run recorded of the released weights. Where that was not the same twice nothing is compared.

    Raises:
        InputError: it answers otherwise.
    """
    if before.unsteady > UNSTEADY:
        return
    samples = read_samples((path / SAMPLES).read_bytes(), path / SAMPLES)
    recorded = {sample.name: sample.scores for sample in samples if sample.key == keys.before(role)}
    for split, scores in setting.start.items():
        if split not in recorded:
            continue
        apart = np.abs(np.asarray(recorded[split]) - scores) > APART
        if apart.mean() > UNSTEADY:
            found = f"the {role} answers {apart.sum()} of {len(apart)} {split} items otherwise than in {path}"
            raise InputError(f"{found}: it is another model", "Choose another place with --out")


def said_digest(setting: Setting) -> str:
    """Returns a digest of what a model scores before any attack, as hexadecimal digits."""
    digest = hashlib.sha256()
    for split, scores in sorted(setting.start.items()):
        digest.update(split.encode() + scores.tobytes())
    return digest.hexdigest()
