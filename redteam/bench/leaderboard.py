"""The leaderboard: every target with all labels, the hardest to recover first."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from redteam.bench.rows import Row
from redteam.bench.summary import Summary, interval, markdown, summarise, times
from redteam.record import Interval
from redteam.registry import METHODS

HEAD = """# Leaderboard

Written by `redteam bench` from the rows in [targets](targets). Every target was attacked by suite {suites} with a
budget of {budgets} search trials. Figures are means over the seeds that *verdicts* counts, with 95 % Student t
intervals over them (none for a single seed; none of any width where all seeds agree): each seed has a world, a
training, a method and an attack of its own. The hardest to recover come first; where excess
recovery is not defined (an attack teaches the never-trained reference as much as the original knew), they come last.

- *before*, *after*: score on held-out items of the released target, and after the strongest confirmed attack that
  keeps 80 % of its utility. *never knew*: the same attacks on a model that never had the capability.
- *excess recovery*: 0 is like learning from scratch, 1 is all still there. *At any utility*: of the strongest attack
  whatever it does to the rest of the model; RESISTED needs both to be low.
- *half after*: median optimizer steps to half of what the original knew.
- *tax*: utility lost against the original. *cost*: FLOPs of the method over those of training the original once;
  its wall time and peak memory, measured with nothing else running, are in [cost](benchmarks/cost.json).
"""


def leaderboard(rows: Sequence[Row]) -> str:
    """Returns the leaderboard as Markdown."""
    summaries = [summary for summary in summarise(rows) if summary.cell.label_fraction == 1 and not summary.cell.then]
    parts = [HEAD.format(**_setting(rows))]
    for testbed in dict.fromkeys(summary.cell.testbed for summary in summaries):
        own = [summary for summary in summaries if summary.cell.testbed == testbed]
        parts.append(f"\n## {testbed}\n\n{_table(own)}{_settings(own)}")
    return "".join(parts)


def leaderboard_json(rows: Sequence[Row]) -> str:
    """Returns every summary, partial labels and stages included, as JSON."""
    return json.dumps({"setting": _setting(rows), "targets": [_entry(s) for s in summarise(rows)]}, indent=1) + "\n"


def _table(summaries: Sequence[Summary]) -> str:
    when = {row["name"]: row["when"] for row in METHODS.described()}
    columns = {
        "method": lambda s: f"**{s.cell.method}**",
        "when": lambda s: when.get(s.cell.method, ""),
        "before": lambda s: interval(s.before),
        "after": lambda s: interval(s.after),
        "never knew": lambda s: interval(s.reference),
        "excess recovery": lambda s: interval(s.excess),
        "at any utility": lambda s: interval(s.excess_any),
        "half after": lambda s: s.steps(),
        "verdicts": lambda s: s.verdicts,
        "utility": lambda s: interval(s.utility),
        "tax": lambda s: interval(s.tax),
        "cost": lambda s: times(s.cost("flops")),
    }
    return markdown(columns, sorted(summaries, key=_hardness))


def _settings(summaries: Sequence[Summary]) -> str:
    """Returns what was set in this world: a method is judged as it was run, not as it was published."""
    listed = "; ".join(f"{summary.cell.method}: {summary.settings}" for summary in summaries if summary.settings)
    return f"\nOptions other than the defaults: {listed}.\n" if listed else ""


def _hardness(summary: Summary) -> tuple[float, float]:
    excess, after = summary.excess, summary.after
    return (math.inf if excess is None else excess.estimate, math.inf if after is None else after.estimate)


def _setting(rows: Sequence[Row]) -> dict[str, str]:
    def listed(values: set[Any]) -> str:
        return ", ".join(str(value) for value in sorted(values)) or "none"

    return {
        "suites": listed({row.identity.get("suite", "") for row in rows}),
        "budgets": listed({row.identity.get("budget", 0) for row in rows}),
    }


def _entry(summary: Summary) -> dict[str, Any]:
    figures = {
        "before": summary.before,
        "after": summary.after,
        "reference": summary.reference,
        "excess_recovery": summary.excess,
        "utility": summary.utility,
        "alignment_tax": summary.tax,
        **{f"cost_{axis}": summary.cost(axis) for axis in ("flops", "seconds", "peak_memory")},
    }
    return {
        "variant": summary.variant,
        "testbed": summary.cell.testbed,
        "method": summary.cell.method,
        "label_fraction": summary.cell.label_fraction,
        "then": summary.cell.then or None,
        "seeds": [row.of.seed for row in summary.rows],
        "verdicts": summary.verdicts,
        "half_after_steps": summary.steps(),
        "errors": list(summary.errors),
        **{name: _numbers(bounds) for name, bounds in figures.items()},
    }


def _numbers(bounds: Interval | None) -> dict[str, float | None] | None:
    if bounds is None:
        return None
    return {name: round(v, 5) if math.isfinite(v) else None for name, v in asdict(bounds).items()}
