"""Events of a model, of a probe and of a trial, made of what was found, and the scores that belong to them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from torch import nn

from redteam.engine.devices import device_of
from redteam.engine.modes import mode_gap
from redteam.engine.unused import count_unused
from redteam.evidence import keys
from redteam.evidence.events import BeforeEvent, Loss, PointRecord, ProbeEvent, TrialEvent
from redteam.probes.contract import ProbeReading
from redteam.setting import Setting
from redteam.suite.repeat import share_unsteady
from redteam.suite.told_apart import share_told_apart
from redteam.trial import Point, TrialResult

Samples = Mapping[str, Sequence[float]]


def before_event(role: str, setting: Setting) -> tuple[BeforeEvent, Samples]:
    """Returns the record of a model's released weights."""
    target, start = setting.target, setting.start
    info = asdict(target.info) | {"stored_dtype": target.stored_dtype, "device": str(device_of(target.module))}
    means: dict[str, Any] = {split: float(scores.mean()) for split, scores in start.items()}
    gap = mode_gap(target.module, setting.retain)
    setting.released.restore(target.module)  # in training mode a module may change its buffers
    apart = share_told_apart(setting)
    told: dict[str, Any] = {} if apart is None else {"told_apart": apart}
    told |= {"lines": setting.lines} if setting.lines else {}
    told |= {"sides": setting.sides} if setting.sides else {}
    at: Callable[[nn.Module], tuple[float, float]] | None = getattr(setting.choices["certify"], "lines_at", None)
    told |= {} if at is None else {"lines_at": at(target.module)}
    given = role in ("target", "original", "reference")  # others are made of these
    event = BeforeEvent(
        key=keys.before(role),
        **means,
        model=info,
        unsteady=share_unsteady(setting),
        mode_loss=gap.loss,
        mode_gradients=gap.gradients,
        unused=count_unused(target.module, setting.answers, setting.retain) if given else {},
        **told,
    )
    return event, {split: scores.tolist() for split, scores in start.items()}


def probe_event(role: str, name: str, reading: ProbeReading, *, decides: bool) -> tuple[ProbeEvent, Samples]:
    """Returns the record of what a probe read of a model."""
    chance: dict[str, Any] = {} if reading.chance is None else {"chance": reading.chance}
    event = ProbeEvent(
        key=keys.probe(role, name),
        probe=name,
        layer=reading.layer,
        by_layer=dict(reading.by_layer),
        decides=decides,
        **chance,
        notes={key: round(value, 6) for key, value in reading.notes.items()},
    )
    samples = {keys.CORRECT: reading.correct, keys.CONTROL: reading.control}
    return event, samples | ({keys.ERASED: reading.erased} if reading.erased else {})


def trial_event(result: TrialResult, **about: Any) -> tuple[TrialEvent, Samples]:
    """Returns the record of a trial.

    Args:
        result: what happened.
        about: "phase" of a trial of the search, "configuration" of one that runs a configuration again.
    """
    spec, losses = result.spec, result.losses
    span = max(1, len(losses) // 4)
    event = TrialEvent(
        key=spec.key,
        attack=spec.attack,
        version=result.version,
        params=dict(spec.params),
        seed=spec.seed,
        state=result.state,
        error=result.error,
        diverged=result.diverged,
        points=tuple(_point(point) for point in result.points),
        loss=Loss(first=sum(losses[:span]) / span, last=sum(losses[-span:]) / span) if losses else None,
        share_moved=result.share_moved,
        outputs_moved=result.outputs_moved,
        seconds={name: round(value, 4) for name, value in result.seconds.items()},
        reversible=result.reversible,
        **about,
    )
    return event, _samples(result)


def _point(point: Point) -> PointRecord:
    means: dict[str, Any] = {split: float(scores.mean()) for split, scores in point.scores.items()}
    further: dict[str, Any] = {} if point.asked is None else {"asked": point.asked}
    further |= {"lines": point.lines} if point.lines else {}
    return PointRecord(**asdict(point.spent), **means, **further)


def _samples(result: TrialResult) -> Samples:
    """Returns per-item scores: of the best point on select while searching, of every point on certify after."""
    if result.spec.certify:
        return {
            keys.at(split, point.spent.steps): scores.tolist()
            for point in result.points
            for split, scores in point.scores.items()
            if keys.split_of(split) == keys.CERTIFY
        }
    best = max(result.points, key=lambda p: float(p.scores["select"].mean()))
    return {keys.at("select", best.spent.steps): best.scores["select"].tolist()}
