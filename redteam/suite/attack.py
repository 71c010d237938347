"""`redteam.attack`: the protocol on a checkpoint or a module, from Python."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from redteam.access import Access
from redteam.capabilities.items import Capability
from redteam.checkpoints.live import Live, live_model
from redteam.evidence.results import Results
from redteam.suite.extend import extended
from redteam.suite.inputs import Inputs, resolve_inputs
from redteam.suite.memo import Memo
from redteam.suite.progress import Progress, Silent
from redteam.suite.several import run_all

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

What = Path | str | Capability  # how a capability is given


def attack(
    target: Path | str | nn.Module,
    *,
    budget: int = 100,
    capability: What | Sequence[What] | None = None,
    original: Path | str | nn.Module | None = None,
    reference: Path | str | nn.Module | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    config: Path | str | None = None,
    arch: str | None = None,
    base: Path | str | None = None,
    attacks: Sequence[str] = (),
    access: Access | str = Access.WEIGHTS,
    probes: Sequence[str] = (),
    seed: int = 0,
    device: str | None = None,
    extend: Path | str | None = None,
    out: Path | str | None = None,
    progress: Progress | None = None,
    memo: Memo | None = None,
) -> Results:
    """Attacks a checkpoint and judges what came back. The same call resumes a run that was interrupted.

    Args:
        target: a checkpoint of any form; or a causal language model or classifier, which is copied and stays as it is.
        budget: search trials.
        capability: a `capability.toml`, or what one holds, or several; by default the manifest's.
        original: the model before unlearning; by default the manifest's.
        reference: a model that never had the capability; by default the manifest's.
        tokenizer: of models that read text and are given as modules.
        config: a `config.json` for checkpoints that have none beside them.
        arch: instead, a function that builds the classifier: `path/to/file.py:function`. It is run.
        base: of PEFT adapters, the checkpoint that they are put on.
        attacks: names of `redteam list attacks`, or `path/to/file.py:Class`; by default the suite's.
        access: what the adversary has: "weights", "activations", "embeddings" or "text"; what needs more is skipped.
        probes: names of `redteam list probes`; by default all of them, and those of installed packages.
        seed: of the run.
        device: where models run: "cpu", "cuda", "cuda:1", ...; by default on the accelerators, if there are any.
        extend: a run that is over, to go on with by `budget` trials more; in a directory of its own.
        out: run directory; by default one under `results/runs` that is named after target and plan.
        progress: hears how far the run is.
        memo: shared by runs of one process, so that what several of them need is done once.

    Raises:
        InputError: something given cannot be used.
    """
    given: dict[str, Any] = {
        "original": None if original is None else _model(original, tokenizer, "original"),
        "reference": None if reference is None else _model(reference, tokenizer, "reference"),
        "config": _path(config),
        "arch": arch,
        "base": _path(base),
        "attacks": attacks,
        "access": Access(access),
        "probes": probes,
        "device": device,
    }
    of = _model(target, tokenizer, "target")
    many = [resolve_inputs(of, budget=budget, capability=one, seed=seed, **given) for one in _capabilities(capability)]
    return run_all(_going_on(many, extend), _path(out), progress or Silent(), memo)[0]


def _going_on(many: list[Inputs], extend: Path | str | None) -> list[Inputs]:
    return many if extend is None else [extended(many, Path(extend))]


def _capabilities(given: What | Sequence[What] | None) -> list[Path | Capability | None]:
    several = [given] if given is None or isinstance(given, str | Path | Capability) else given
    return [one if one is None or isinstance(one, Capability) else Path(one) for one in several] or [None]


def _model(given: Path | str | nn.Module, tokenizer: PreTrainedTokenizerBase | None, role: str) -> Path | Live:
    return live_model(given, tokenizer, role) if isinstance(given, nn.Module) else Path(given)


def _path(given: Path | str | None) -> Path | None:
    return None if given is None else Path(given)
