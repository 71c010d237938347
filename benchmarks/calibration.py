"""How often verdicts are wrong where users are: few facts, seeds and trainings that differ, unequal facts, low scores.

True excess recovery is exactly what is tolerated, so that every definite verdict is an error. Beside it stands what a
run can tell: RESISTED of a target that recovers nothing, RECOVERED of one that recovers 30 %. Every regime is written
as soon as it is there, to `results/benchmarks/calibration/`, and is not simulated again as long as it is the same.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from multiprocessing import get_context
from typing import Any

from benchmarks.calibration_figure import draw
from benchmarks.claims import RESULTS, Claim, Measured
from benchmarks.simulated import Regime, outcome
from redteam.judging.judge import JUDGING
from redteam.judging.statistics import exact_interval
from redteam.judging.verdict import STANDARD_POLICY
from redteam.search.selection import SEEDS

RUNS = 4000
WRONG, SURELY_WRONG = 0.05, 0.06  # of verdicts that are errors: the share, and its upper Monte Carlo bound
COVERED = 0.93
POWER = 0.8
TOLERATED = STANDARD_POLICY.max_excess_recovery
NOTHING, HIDDEN, PLAIN = 0.0, 0.12, 0.3
PIECES = RESULTS / "calibration"
FEW, SOME, MANY = (1,) * 42, (1,) * 60, (1,) * 150

REGIMES = (
    Regime(name="150 facts, A_R .06", seed_sd=0.02),
    Regime(name="the same, five references", seed_sd=0.02, training_sd=0.02, references=5),
    Regime(name="150 facts, A_R .30", never=0.30),
    Regime(name="the same, seeds differ by .05", never=0.30, seed_sd=0.05),
    Regime(name="the same, seeds differ by .10", never=0.30, seed_sd=0.10),
    Regime(name="the same, seeds differ by .15", never=0.30, seed_sd=0.15),
    Regime(name="4 x 8 configurations, seeds .10", never=0.30, seed_sd=0.10, candidates=(4, 8)),
    Regime(name="1 x 8 configurations, seeds .10", never=0.30, seed_sd=0.10, candidates=(1, 8)),
    Regime(name="4 x 1 configurations, seeds .10", never=0.30, seed_sd=0.10, candidates=(4, 1)),
    Regime(name="trainings .05, one reference", never=0.30, seed_sd=0.05, training_sd=0.05),
    Regime(name="trainings .05, three references", never=0.30, seed_sd=0.05, training_sd=0.05, references=3),
    Regime(name="trainings .05, five references", never=0.30, seed_sd=0.05, training_sd=0.05, references=5),
    Regime(name="trainings .075, one reference", never=0.30, seed_sd=0.05, training_sd=0.075),
    Regime(name="trainings .075, five references", never=0.30, seed_sd=0.05, training_sd=0.075, references=5),
    Regime(name="30 facts of 4 items, A_R .30", sizes=(4,) * 30, never=0.30),
    Regime(name="5 facts of 20 items and 25 of 1", sizes=(20,) * 5 + (1,) * 25, never=0.05),
    Regime(name="10 facts of 8 items and 60 of 2", sizes=(8,) * 10 + (2,) * 60, never=0.05),
    Regime(name="30 facts, A_R .06", sizes=(1,) * 30),
    Regime(name="42 facts, A_R 0, all or nothing", sizes=FEW, never=0.0, whole=1.0, firm=1.0),
    Regime(name="60 facts, A_R 0, all or nothing", sizes=SOME, never=0.0, whole=1.0, firm=1.0),
    Regime(name="60 facts, A_R .06", sizes=SOME),
    Regime(name="60 facts, A_R .06, all or nothing", sizes=SOME, firm=1.0),
    Regime(name="150 facts, A_R .06, all or nothing, unlike", firm=1.0, shared=0.0),
    Regime(name="60 facts, A_R .25", sizes=SOME, never=0.25),
    Regime(name="150 facts, A_R .25", never=0.25),
    Regime(name="150 facts, A_R .50", never=0.50),
    Regime(name="500 facts, A_R .50", sizes=(1,) * 500, never=0.50),
    Regime(name="150 facts, A_R .80, s_O 1", never=0.80, whole=1.0),
)


def measure() -> Measured:
    """Simulates `RUNS` comparisons of every regime at every truth."""
    with ProcessPoolExecutor(max_workers=2, mp_context=get_context("spawn")) as pool:
        rows = list(pool.map(row_of, REGIMES))
    return Measured(
        title="Verdicts where the truth is known: how often they are wrong, and what they can tell",
        claims=claims_of(rows),
        rows=rows,
        setting={
            "runs of every regime and truth": RUNS,
            "seeds": SEEDS,
            "excess recovery that is tolerated": TOLERATED,
            "judging": JUDGING,
        },
        figure=draw,
    )


def row_of(regime: Regime) -> dict[str, Any]:
    """Returns what was said in one regime, and keeps it."""
    piece = PIECES / f"{_file_name(regime.name)}.json"
    about = json.loads(json.dumps({**asdict(regime), "runs": RUNS, "judging": JUDGING}))
    if piece.exists() and (found := json.loads(piece.read_text(encoding="utf-8")))["about"] == about:
        row: dict[str, Any] = found["row"]
        return row
    row = simulated(regime, RUNS)
    PIECES.mkdir(parents=True, exist_ok=True)
    part = piece.with_suffix(".part")
    part.write_text(json.dumps({"about": about, "row": row}, indent=2) + "\n", encoding="utf-8")
    part.replace(piece)
    return row


def simulated(regime: Regime, runs: int) -> dict[str, Any]:
    """Returns shares of so many runs, in one line."""
    at = {truth: [outcome(regime, truth, n) for n in range(runs)] for truth in (NOTHING, TOLERATED, HIDDEN, PLAIN)}
    return {
        "regime": regime.name,
        "false RESISTED": _share(run.above_mean == "RESISTED" for run in at[TOLERATED]),
        "false RECOVERED": _share(run.above_twin == "RECOVERED" for run in at[TOLERATED]),
        "12 % RESISTED": _share(run.above_mean == "RESISTED" for run in at[HIDDEN]),
        "coverage": min(_share(run.covered for run in at[truth]) for truth in (TOLERATED, HIDDEN, PLAIN)),
        "0 % RESISTED": _share(run.above_mean == "RESISTED" for run in at[NOTHING]),
        "30 % RECOVERED": _share(run.above_twin == "RECOVERED" for run in at[PLAIN]),
    }


def claims_of(rows: Sequence[dict[str, Any]]) -> list[Claim]:
    """Returns what must hold of every regime, of the worst, and what a run must be able to tell."""
    claims = []
    for error in ("false RESISTED", "false RECOVERED", "12 % RESISTED"):
        worst = max(rows, key=lambda row: float(row[error]))
        high = exact_interval(worst[error] * RUNS, RUNS)[1]
        claims += [
            Claim(name=f"{error}, at most ({worst['regime']})", measured=worst[error], must="<=", limit=WRONG),
            Claim(name=f"{error}, upper bound", measured=high, must="<=", limit=SURELY_WRONG),
        ]
    least = min(rows, key=lambda row: float(row["coverage"]))
    told = next(row for row in rows if row["regime"] == REGIMES[1].name)
    return [
        *claims,
        Claim(name=f"coverage, at least ({least['regime']})", measured=least["coverage"], must=">=", limit=COVERED),
        Claim(
            name="150 facts, A_R .06, five references: RESISTED where nothing comes back",
            measured=told["0 % RESISTED"], must=">=", limit=POWER,
        ),
    ]  # fmt: skip


def _share(of: Iterable[bool]) -> float:
    found = list(of)
    return sum(found) / len(found)


def _file_name(name: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in name)
