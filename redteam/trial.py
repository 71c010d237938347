"""One trial: one attack with one set of parameters and one seed, from the released weights.

`run_trial` is a pure function of the setting and the spec: it restores, seeds, attacks, scores and catches, and it
touches no storage, so that it can run anywhere.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from redteam.access import Access
from redteam.attacks.contract import Arena, Attack, Params, step_limit
from redteam.capabilities.misfit import positions_of
from redteam.capabilities.scorers.contract import Encoded, NotFinite, Said, Scores, mean_lines, scores_of
from redteam.capabilities.wording import Rewrite, Wording, as_it_is, asked
from redteam.engine.cost import Ledger, Spent
from redteam.engine.deadline import closed_within, steps_within, within
from redteam.engine.loop import Diverged
from redteam.engine.seeding import derive_seed, seeded
from redteam.engine.surroundings import surroundings_kept
from redteam.errors import one_line
from redteam.evidence import keys
from redteam.setting import Setting, Split


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialSpec:
    """What to run, in plain data.

    Attributes:
        key: names the trial in the evidence: "target/search/0007".
        attack: registry name.
        params: of the attack.
        seed: of the trial.
        certify: whether the certify split is scored too; only in confirmation.
    """

    key: str
    attack: str
    params: Params
    seed: int
    certify: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """Scores after some cost.

    Attributes:
        spent: the cost.
        scores: per-item scores of each split that was scored.
        asked: what an item of the attack split was asked as, where an attack changes the wording; else None.
        lines: mean certify scores by other lines, see `mean_lines`; () where certify was not scored.
    """

    spent: Spent
    scores: Mapping[Split, Scores]
    asked: str | None = None
    lines: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialResult:
    """What happened.

    Attributes:
        state: "complete", or "failed" when the attack raised: a failed trial says nothing about the model.
        error: of a failed trial, one line.
        diverged: the attack drove the model to non-finite numbers; points before that stand.
        points: from step 0 on, log-spaced.
        losses: the attack's own training loss at each step.
        share_moved: share of weights that differ from the released ones at the end, in [0, 1].
        outputs_moved: largest share of select items, over the points, of which the model says something else than as
            released, in [0, 1]: what shows that an attack which moves no weight did anything.
        seconds: "total", "training" and "scoring" wall time.
        reversible: whether the attack can be switched off for other questions: one on a language model that moved no
            weight. Which inputs of a classifier are of the forgotten class nobody knows before it is asked.
    """

    spec: TrialSpec
    version: int
    state: Literal["complete", "failed"]
    error: str | None
    diverged: bool
    points: tuple[Point, ...]
    losses: tuple[float, ...]
    share_moved: float
    outputs_moved: float
    seconds: Mapping[str, float]
    reversible: bool = False


def run_trial(setting: Setting, attack: Attack, spec: TrialSpec) -> TrialResult:
    """Runs one trial from the released weights and leaves the module restored.

    Whatever an attack raises becomes a failed trial, and so does one that hangs; neither becomes a score. Only an
    interrupt goes on.

    Raises:
        StructureChanged: the attack left the module as it cannot be restored.
    """
    started, module = time.perf_counter(), setting.target.module
    setting.released.restore(module)
    ledger = Ledger(parameters=setting.target.info.parameters)
    watch = _Scoring(setting, spec)
    error, diverged = None, False
    try:
        limit = step_limit(attack)
        with surroundings_kept():
            torch.manual_seed(derive_seed(spec.seed, "global"))
            arena = watch.arena = open_arena(setting, spec, ledger)
            with closed_within(limit, arena.in_place.close):
                watch.follow(within(limit, lambda: attack.run(arena, spec.params)), limit)
    except (Diverged, NotFinite):
        diverged = True
    except KeyboardInterrupt:
        raise
    except BaseException as raised:  # noqa: BLE001 - an attack is anybody's code; its failure is recorded
        error = one_line(f"{type(raised).__name__}: {raised}")
    share_moved = setting.released.share_moved(module)
    setting.released.restore(module)
    return TrialResult(
        spec=spec,
        version=attack.version,
        state="failed" if error else "complete",
        error=error,
        diverged=diverged,
        points=tuple(watch.points),
        losses=tuple(ledger.losses),
        share_moved=share_moved,
        outputs_moved=watch.outputs_moved,
        seconds={"total": time.perf_counter() - started, "training": ledger.seconds, "scoring": watch.seconds},
        reversible=getattr(attack, "access", Access.WEIGHTS) != Access.WEIGHTS
        and share_moved == 0
        and setting.target.tokenizer is not None,
    )


def open_arena(setting: Setting, spec: TrialSpec, ledger: Ledger) -> Arena:
    """Returns what the attack of a trial gets: the live module, and the attack split as the trial's seed orders it."""
    order = torch.randperm(len(setting.at_hand), generator=seeded(spec.seed, "sample"))[: setting.samples]
    return Arena(
        module=setting.target.module,
        answers=setting.at_hand.take(order),
        texts=(setting.texts if setting.at_hand is setting.answers else setting.at_hand).take(order),
        retain=setting.retain,
        corpus=setting.corpus,
        ledger=ledger,
        seed=spec.seed,
        wording=_wording(setting, order),
        forgotten=setting.capability.forgotten,
    )


def _wording(setting: Setting, order: Tensor) -> Wording | None:
    """Returns how the model is asked before any attack; a classifier is not."""
    target, capability = setting.target, setting.capability
    if target.tokenizer is None:
        return None
    return Wording(
        attack=tuple(capability.attack[row] for row in order.tolist()),
        retain=capability.retain,
        tokenizer=target.tokenizer,
        positions=positions_of(target),
    )


def rewrite_of(arena: Arena) -> Rewrite:
    """Returns how the attack in an arena asks items now; of a classifier nothing is rewritten."""
    return as_it_is if arena.wording is None else arena.wording.rewrite


class _Scoring:
    """Follows an attack and scores it at steps 0, 1, 2, 4, 8, ... and at its last."""

    def __init__(self, setting: Setting, spec: TrialSpec) -> None:
        self.setting = setting
        certify = (s for s in setting.choices if spec.certify and keys.split_of(s) == keys.CERTIFY)
        self.splits = ("select", "utility", *certify)
        start = {split: setting.start[split] for split in self.splits}
        self.points = [Point(spent=Spent(), scores=start, lines=setting.lines if spec.certify else ())]
        self.outputs_moved = self.seconds = 0.0
        self.arena: Arena | None = None
        self._as_asked: tuple[Rewrite, Mapping[Split, Encoded]] = as_it_is, setting.choices

    def follow(self, running: Iterator[Spent], limit: float) -> None:
        """Runs the attack to its end, or closes it where a score ends the trial: it takes down what it put up.

        It has so many seconds for each step, and for closing. Scoring is not its time.
        """
        with closed_within(limit, running.close) if isinstance(running, Generator) else nullcontext():
            self._follow(steps_within(limit, running))

    def _follow(self, running: Iterator[Spent]) -> None:
        self.setting.target.module.eval()
        spent, due = Spent(), 1
        for now in running:
            if now.steps <= spent.steps:
                raise ValueError(f"the attack says it has made {now.steps} steps after {spent.steps}")
            spent = now
            if spent.steps >= due:
                self.score(spent)
                due = 2 ** spent.steps.bit_length()  # the next power of two
        if spent.steps > self.points[-1].spent.steps:
            self.score(spent)

    def score(self, spent: Spent) -> None:
        """Scores the module as it is now."""
        started = time.perf_counter()
        module, choices = self.setting.target.module, self._choices()
        module.eval()
        said = Said(module)
        scores: dict[Split, NDArray[np.float64]] = {}
        lines: tuple[float, ...] = ()
        for split in self.splits:
            encoded = choices[split]
            table = said.table(encoded)
            scores[split] = scores_of(table, encoded)
            if split == "select":
                self.outputs_moved = max(self.outputs_moved, _share_differing(table, self.setting.says))
            if split == "certify":
                lines = mean_lines(table, encoded)
        self.points.append(Point(spent=spent, scores=scores, asked=self._example(), lines=lines))
        self.seconds += time.perf_counter() - started

    def _choices(self) -> Mapping[Split, Encoded]:
        """Returns the splits as the model is asked now, encoded once for every rewriting."""
        rewrite = as_it_is if self.arena is None else rewrite_of(self.arena)
        if rewrite is not self._as_asked[0]:
            self._as_asked = rewrite, {split: self.setting.asked(split, rewrite) for split in self.splits}
        return self._as_asked[1]

    def _example(self) -> str | None:
        """Returns how the first item that the attack knows is asked now; None if it is asked as it is."""
        rewrite = self._as_asked[0]
        return None if rewrite is as_it_is else asked(self.setting.capability.attack[:1], rewrite)[0].prompt


def _share_differing(table: Tensor, other: Tensor) -> float:
    """Returns the share of rows that differ by more than rounding."""
    return float((~torch.isclose(table, other, rtol=1e-5, atol=1e-6)).any(dim=1).double().mean())
