"""The six questions of the debate, each answered by a table of what was measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

from redteam.bench.rows import Row
from redteam.bench.summary import Summary, interval, markdown, summarise, times
from redteam.judging.statistics import mean_over_seeds
from redteam.record import Interval
from redteam.registry import METHODS

TAXED = ("original", "routing", "sgtm", "nmn", "acl", "filtered")
ALIKE = 0.08  # forget scores before the attack that count as equal
Columns = dict[str, Callable[[Summary], str]]


def questions(rows: Sequence[Row]) -> str:
    """Returns all six sections as Markdown; a table that lacks its rows says which."""
    found = summarise(rows)
    sections = (
        _noise_or_tamper_resistance,
        _retain_after_dampening,
        _throughout_or_post_hoc,
        _tax_of_modularity,
        _partial_labels,
        _retain_or_mixture,
    )
    return "\n".join(section(found) for section in sections)


def _noise_or_tamper_resistance(found: list[Summary]) -> str:
    """Question 1."""
    lines = [s for s in found if s.cell.method in ("rmu", "tar") and _plain(s)]
    columns: Columns = {
        "target": lambda s: s.variant,
        "before": lambda s: interval(s.before),
        "after": lambda s: interval(s.after),
        "excess recovery": lambda s: interval(s.excess),
        "at any utility": lambda s: interval(s.excess_any),
        "steps to 50 %": lambda s: s.steps("0.5"),
        "80 %": lambda s: s.steps("0.8"),
        "90 %": lambda s: s.steps("0.9"),
        "utility": lambda s: interval(s.utility),
        "cost": lambda s: times(s.cost("flops")),
    }
    text = "\n".join(_factors(lines))
    return _section(
        "1. Is representation noising (RMU) reversed more cheaply than loss-maximising tamper resistance (TAR)?",
        "Steps to a share of what the original knew, by the confirmed attack that the select split would choose within "
        "them; medians over seeds. Scores are taken at steps 1, 2, 4, 8, ...: a factor may be off by two either way. "
        "The attack trains on forget items alone; what TAR and UNDO give back on `facts` to one that trains on retain "
        "items as well is in [mixture](benchmarks/mixture.json).",
        columns,
        lines,
        text,
    )


def _factors(lines: Sequence[Summary]) -> Iterator[str]:
    """Yields how many times the steps TAR takes, for each testbed and level, seed by seed."""
    for testbed in dict.fromkeys(s.cell.testbed for s in lines):
        pair = {s.cell.method: s for s in lines if s.cell.testbed == testbed}
        if len(pair) < 2:
            continue
        for level in ("0.5", "0.8"):
            each = ", ".join(_factor(pair["rmu"], pair["tar"], level))
            yield f"- {testbed}, to {float(level):.0%}: TAR takes {each} times the steps of RMU (one figure a seed)."


def _factor(rmu: Summary, tar: Summary, level: str) -> Iterator[str]:
    by_seed = {row.of.seed: row.recovery for row in rmu.rows if row.recovery}
    for row in tar.rows:
        other = by_seed.get(row.of.seed)
        if row.recovery is None or other is None:
            continue
        slow, fast = row.recovery.steps[level], other.steps[level]
        if fast is None:
            yield "an unknown number of" if slow is None else f"fewer than {slow / other.horizon:.2g}"
        elif slow is None:
            yield f"more than {row.recovery.horizon / max(1, fast):.2g}"
        else:
            yield f"{max(1, slow) / max(1, fast):.2g}"


def _retain_after_dampening(found: list[Summary]) -> str:
    """Question 2."""
    lines = [s for s in found if s.cell.method in ("ssd", "potion") and s.cell.label_fraction == 1]
    columns: Columns = {
        "target": lambda s: s.variant,
        "forget score": lambda s: interval(s.before),
        "utility": lambda s: interval(s.utility),
        "tax": lambda s: interval(s.tax),
        "after the attack": lambda s: interval(s.after),
        "verdicts": lambda s: s.verdicts,
    }
    return _section(
        "2. Do SSD and Potion need retain fine-tuning where capabilities are entangled?",
        "Each without and with the stage `--then retain`. Below: what the stage changes, paired on the seeds.",
        columns,
        lines,
        "\n".join(_changes(lines, "", "retain")),
    )


def _changes(lines: Sequence[Summary], first: str, second: str) -> Iterator[str]:
    """Yields what one stage changes against another, for every method that has both."""
    by_stage = {(s.cell.testbed, s.cell.method, s.cell.then): s for s in lines}
    figures = {"forget score": _before, "after the attack": _after, "utility": _utility}
    for (testbed, method, then), one in by_stage.items():
        other = by_stage.get((testbed, method, second))
        if then != first or other is None:
            continue
        changes = {name: _paired(figure(other), figure(one)) for name, figure in figures.items()}
        said = ", ".join(f"{name} {_signed(bounds)}" for name, bounds in changes.items() if bounds is not None)
        yield f"- {other.variant} against {one.variant}: {said or 'no seed has both'}."


def _throughout_or_post_hoc(found: list[Summary]) -> str:
    """Question 3."""
    lines = [s for s in found if _plain(s) and _acts(s) != "control" and s.before is not None]
    lines.sort(key=lambda s: (s.cell.testbed, s.before.estimate if s.before else 0.0))
    columns: Columns = {
        "target": lambda s: s.variant,
        "acts": _acts,
        "forget score": lambda s: interval(s.before),
        "after the attack": lambda s: interval(s.after),
        "excess recovery": lambda s: interval(s.excess),
        "utility": lambda s: interval(s.utility),
    }
    pairs = "\n".join(_pairs(lines)) or "No two targets of one testbed score alike before the attack."
    return _section(
        "3. Throughout training against post hoc, at equal forget score",
        f"Sorted by the score before the attack. Below: pairs whose mean scores differ by at most {ALIKE}; every "
        "difference is paired on the seeds.",
        columns,
        lines,
        pairs,
    )


def _pairs(lines: Sequence[Summary]) -> Iterator[str]:
    for early in (s for s in lines if _acts(s) == "training"):
        for late in (s for s in lines if _acts(s) == "post hoc" and s.cell.testbed == early.cell.testbed):
            gap = _paired(_before(late), _before(early))
            if gap is None or abs(gap.estimate) > ALIKE:
                continue
            rise = _paired(_after(late), _after(early))
            if rise is not None:
                yield (
                    f"- {late.variant} against {early.variant}: {_signed(gap)} before the attack, "
                    f"{_signed(rise)} after it."
                )


def _paired(first: Mapping[int, float], second: Mapping[int, float]) -> Interval | None:
    """Returns the difference of two figures over the seeds that both have."""
    shared = sorted(first.keys() & second.keys())
    return mean_over_seeds([first[seed] - second[seed] for seed in shared]) if shared else None


def _signed(bounds: Interval) -> str:
    """Returns "+0.10 [-0.02, +0.22]"; no brackets around a single seed."""
    if math.isinf(bounds.high):
        return f"{bounds.estimate:+.2f}"
    return f"{bounds.estimate:+.2f} [{bounds.low:+.2f}, {bounds.high:+.2f}]"


def _before(summary: Summary) -> dict[int, float]:
    return {row.of.seed: row.recovery.before for row in summary.rows if row.recovery}


def _after(summary: Summary) -> dict[int, float]:
    return {row.of.seed: row.recovery.after.estimate for row in summary.rows if row.recovery and row.recovery.after}


def _utility(summary: Summary) -> dict[int, float]:
    return {row.of.seed: row.recovery.utility[0] for row in summary.rows if row.recovery}


def _tax_of_modularity(found: list[Summary]) -> str:
    """Question 4."""
    lines = [
        s for s in found if s.cell.method in ("original", "routing", "sgtm", "nmn", "acl", "filtered") and _plain(s)
    ]
    columns: Columns = {
        "target": lambda s: s.variant,
        "utility": lambda s: interval(s.utility, 3),
        "tax": lambda s: interval(s.tax, 3),
        "forget score": lambda s: interval(s.before),
        "after the attack": lambda s: interval(s.after),
        "FLOPs": lambda s: times(s.cost("flops")),
        "peak memory": lambda s: times(s.cost("peak_memory")),
    }
    return _section(
        "4. The alignment tax of routing, SGTM, NMN and ACL against one jointly trained model",
        "The jointly trained model is `original`. Costs are multiples of what it took to train.",
        columns,
        lines,
    )


def _partial_labels(found: list[Summary]) -> str:
    """Question 5."""
    swept = {(s.cell.testbed, s.cell.method) for s in found if s.cell.label_fraction not in (0.0, 1.0)}
    lines = [s for s in found if (s.cell.testbed, s.cell.method) in swept and not s.cell.then]
    lines.sort(key=lambda s: (s.cell.testbed, s.cell.method, s.cell.label_fraction))
    columns: Columns = {
        "testbed": lambda s: s.cell.testbed,
        "method": lambda s: s.cell.method,
        "labelled": lambda s: f"{s.cell.label_fraction:g}",
        "forget score": lambda s: interval(s.before),
        "after the attack": lambda s: interval(s.after),
        "excess recovery": lambda s: interval(s.excess),
        "utility": lambda s: interval(s.utility),
        "healed": lambda s: interval(s.measure("healed")),
    }
    return _section(
        "5. What if only part of the forget data is labelled?",
        "The rest is mixed, unlabelled, into the retain data. On `poison` the share is that of identified poison, and "
        "*healed* is the accuracy on triggered images with their true labels. Below: each method against data "
        "filtering with the same labels, paired on the seeds.",
        columns,
        lines,
        "\n".join(_against_filtering(lines)),
    )


def _against_filtering(lines: Sequence[Summary]) -> Iterator[str]:
    """Yields what each method recovers beyond data filtering that was told as much."""
    by_cell = {(s.cell.testbed, s.cell.method, s.cell.label_fraction): s for s in lines}
    for (testbed, method, fraction), one in by_cell.items():
        filtered = by_cell.get((testbed, "filtered", fraction))
        if method == "filtered" or filtered is None or fraction == 0:
            continue
        after = _paired(_after(one), _after(filtered))
        if after is not None:
            yield f"- {testbed}, {fraction:.0%} labelled, {method} against filtered: {_signed(after)} after the attack."


def _retain_or_mixture(found: list[Summary]) -> str:
    """Question 6."""
    swept = {(s.cell.testbed, s.cell.method) for s in found if s.cell.then == "mixture"}
    lines = [s for s in found if (s.cell.testbed, s.cell.method) in swept and s.cell.label_fraction == 1]
    columns: Columns = {
        "target": lambda s: s.variant,
        "forget score": lambda s: interval(s.before),
        "after the attack": lambda s: interval(s.after),
        "excess recovery": lambda s: interval(s.excess),
        "utility": lambda s: interval(s.utility),
        "tax": lambda s: interval(s.tax),
    }
    return _section(
        "6. After ablation: fine-tuning on retain data, or retraining on the mixture?",
        "The mixture is the training distribution without the held-out facts: an attacker's own facts are in it. "
        "Below: the mixture against retain data, paired on the seeds.",
        columns,
        lines,
        "\n".join(_changes(lines, "retain", "mixture")),
    )


def _acts(summary: Summary) -> str:
    """Returns "training", "post hoc" or "control"; "" for a method that is not in our own table."""
    said = {row["name"]: str(row["when"]) for row in METHODS.described()}
    return said.get(summary.cell.method, "")


def _plain(summary: Summary) -> bool:
    return summary.cell.label_fraction == 1 and not summary.cell.then


def _section(title: str, about: str, columns: Columns, lines: Sequence[Summary], after: str = "") -> str:
    table = markdown(columns, lines) if lines else "Nothing was measured for this table yet.\n"
    return f"## {title}\n\n{about}\n\n{table}" + (f"\n{after}\n" if after else "")
