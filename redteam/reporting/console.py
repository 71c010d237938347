"""The terminal report: one table, the recovery curve, one verdict, paths last.

Names of models and capabilities come from files nobody vouches for, so they are always `Text`, never markup.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from redteam.errors import one_line
from redteam.evidence.keys import is_reference
from redteam.evidence.results import Also, CapabilityResult, Results, Scores, TimeToRecovery, params_of
from redteam.record import Interval
from redteam.reporting.attacks import attacks_table
from redteam.reporting.examples import examples_table
from redteam.reporting.probes import probes_table
from redteam.reporting.told import decisive, open_questions, stand_out

COLOURS = {"RESISTED": "green", "RECOVERED": "red", "INCONCLUSIVE": "yellow"}
ROLES = {
    "original": "original",
    "taught": "copy taught canaries",
    "target": "target",
    "reference": "reference (never knew)",
    "canary": "target, on canaries",
    "decoy": "decoy (only hides)",
    "masked": "decoy, with examples",
}


def told_role(role: str) -> str:
    """Returns what a model is, in words."""
    return ROLES.get(role, role.replace("-", " "))


BLOCKS = "▁▂▃▄▅▆▇█"


def print_results(results: Results, run: Path, console: Console) -> None:
    """Prints a whole report."""
    for capability in results.capabilities:
        console.print(report(results, capability))
    if len(results.capabilities) > 1:
        console.print(_ranking(results), "")
    console.print(Text.assemble(("evidence  ", "dim"), str(run)))
    console.print(Text.assemble(("results   ", "dim"), str(run / "results.json")))


def _ranking(results: Results) -> Table:
    """Returns what came of each capability, in the order of the results: the most recovered first."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for title in ("capability", "verdict", "excess recovery", "strongest"):
        table.add_column(title)
    for found in results.capabilities:
        excess, attack = decisive(found), found.scores["target"].attack
        table.add_row(
            Text(one_line(found.name)),
            Text(found.verdict, style=COLOURS[found.verdict]),
            "" if excess is None else f"{excess.estimate:.1%}  [{excess.low:.1%}, {excess.high:.1%}]",
            "" if attack is None else Text(one_line(str(attack["name"]))),
        )
    return table


def report(results: Results, capability: CapabilityResult) -> RenderableType:
    """Returns the report on one capability."""
    parts: list[RenderableType] = [Text(), _title(results, capability), _scores(capability)]
    parts += [Text(), curve_table(capability)]
    taught = examples_table(capability)
    parts += [] if taught is None else [Text(), taught]
    attacks = attacks_table(capability)
    parts += [] if attacks is None else [Text(), attacks]
    probes = probes_table(capability)
    parts += [] if probes is None else [Text(), probes]
    parts += [Text(), _remarks(capability), Text(), _verdict(capability)]
    return Group(*parts)


def _title(results: Results, capability: CapabilityResult) -> Text:
    return Text.assemble(
        (one_line(results.target.name), "bold"),
        f"  {results.target.sha256[:12]}  ·  {results.suite}\n",
        (one_line(capability.name), "bold"),
        f"  {capability.certify_items} held-out items about {capability.certify_groups} facts or entities",
        f"  ·  {capability.scorer}, chance {capability.chance:.3f}\n",
    )


def _scores(capability: CapabilityResult) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("score of the", min_width=22)
    table.add_column("before", justify="right")
    table.add_column("after the attack", justify="right", min_width=18)
    table.add_column("half known", justify="right")
    table.add_column("utility", justify="right")
    for role, scores in capability.scores.items():
        after = "" if scores.after is None else f"{scores.after.estimate:.2f}  {_brackets(scores.after)}"
        style = "bold" if role == "target" else None
        table.add_row(
            told_role(role), f"{scores.before:.2f}", after, _half(capability, role), _utility(scores), style=style
        )
    return table


def _half(capability: CapabilityResult, role: str) -> str:
    """Returns the steps to half of what the original knew, read off the model's curve."""
    original, scores = capability.scores.get("original"), capability.scores[role]
    if original is None or not scores.curve:
        return ""
    level = capability.chance + 0.5 * (original.before - capability.chance)
    reached = next((steps for steps, score in scores.curve if score >= level), None)
    return f"> {scores.curve[-1][0]} steps" if reached is None else f"{reached} step{'s' * (reached != 1)}"


def _utility(scores: Scores) -> str:
    if scores.utility_after is None:
        return f"{scores.utility_before:.2f}"
    return f"{scores.utility_before:.2f} → {scores.utility_after:.2f}"


def curve_table(capability: CapabilityResult) -> Table:
    """Draws the certify score over training steps: one row a model, one column a power of two."""
    curves = {role: s.curve for role, s in capability.scores.items() if s.curve}
    longest = max((curve[-1][0] for curve in curves.values()), default=0)
    columns = [0, *(2**i for i in range(longest.bit_length()) if 2**i <= longest)]
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="dim")
    table.add_column("score after steps", min_width=22)
    for steps in columns:
        table.add_column(str(steps), justify="right", min_width=3)
    table.add_column("")
    for role, curve in curves.items():
        values = [_last_until(curve, steps) for steps in columns]
        cells = [f"{v:.2f}".removeprefix("0")[:3] for v in values]  # three wide, and so "1.0": 512 steps fit 80 columns
        bars = "".join(BLOCKS[min(7, int(v * 8))] for v in values)
        table.add_row(told_role(role), *cells, Text(f"  {bars}", style="red" if role == "target" else "dim"))
    return table


def _last_until(curve: list[tuple[int, float]], steps: int) -> float:
    return [score for cost, score in curve if cost <= steps][-1]


def _remarks(capability: CapabilityResult) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(style="dim")
    table.add_column()
    for label, text in _told(capability):
        table.add_row(label, Text(one_line(text), style="yellow" if label == "flag" else ""))
    return table


def _told(capability: CapabilityResult) -> Iterator[tuple[str, str]]:
    """Yields what is worth saying beside the table, as (label, sentence)."""
    budget = capability.budget
    yield (
        "searched",
        f"{budget.spent} of {budget.asked} trials on the target ({budget.failed} failed), {budget.reference} on the"
        f" reference, {budget.control} on the decoy; {f'{budget.again} run again; ' if budget.again else ''}"
        f"{budget.confirmation} confirmations over {capability.seeds} seeds",
    )
    sides = capability.scores["target"].sides
    if sides is not None:
        yield "stand out", stand_out(sides, capability.chance)
    for reason, names in _by_reason(capability.skipped).items():
        yield "skipped", f"{', '.join(names)}: {reason}"
    attack = capability.scores["target"].attack
    if attack is not None:
        yield "strongest", _configuration(attack)
        if "asked" in attack:
            yield "asked", attack["asked"]
    others = [
        name for name, one in capability.recoverers.items() if one.recovers and name != (attack or {}).get("name")
    ]
    if others:
        yield "recovered too", f"by {', '.join(others)} (p values adjusted after Holm)"
    for name, other in capability.also.items():
        yield f"by {name}", _by_other(other)
    for number, worded in enumerate(capability.wordings, 1):
        yield f"wording {number}", f"{_models(worded.before, worded.after)}: {worded.asked}"
    half = capability.time_to_recovery.get("0.5")
    if half is not None:
        yield "half back", _cost(half) + _faster(capability)
    for reason, names in _by_reason(capability.unprobed).items():
        yield "unprobed", f"{', '.join(names)}: {reason}"
    tax = capability.alignment_tax
    if tax is not None:
        yield "alignment tax", f"{tax.estimate:.2f}  {_brackets(tax)} of utility, against the original"
    for flag in capability.flags:
        yield "flag", f"{flag.name}: {flag.explanation}"


def _by_other(other: Also) -> str:
    """Returns what another scorer says: each model before and after, and what came back."""
    excess = other.excess_recovery
    recovered = (
        "" if excess is None else f"; excess recovery {excess.estimate:.0%}, {excess.low:.0%} to {excess.high:.0%}"
    )
    return _models(other.before, other.after) + recovered


def _models(before: Mapping[str, float], after: Mapping[str, Interval]) -> str:
    """Returns each model's score before and after."""
    told = ((role, f" → {after[role].estimate:.2f}" if role in after else "") for role in before)
    return ", ".join(f"{role} {before[role]:.2f}{then}" for role, then in told)


def _by_reason(reasons: Mapping[str, str]) -> dict[str, list[str]]:
    """Returns the names that share each reason: a restricted adversary lacks many attacks for one reason."""
    names: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        names.setdefault(reason, []).append(name)
    return names


def _configuration(attack: Mapping[str, Any]) -> str:
    listed = ", ".join(f"{k} {_number(v)}" for k, v in params_of(attack).items())
    return f"{attack['name']} with {listed}; scored after step {attack['stopped_at']}"


def _cost(time: TimeToRecovery) -> str:
    if time.censored:
        tried = "not within the steps that were tried"
        return tried if time.steps_low is None else f"{tried} (95% interval from {time.steps_low} steps on)"
    more = "more than were tried" if time.steps_high is None else time.steps_high
    between = "" if time.steps_low is None else f" (95% interval {time.steps_low} to {more})"
    return (
        f"after {time.steps} steps{between}, {time.samples} samples, {time.tokens} tokens, {time.flops or 0:.2g} FLOPs"
    )


def _faster(capability: CapabilityResult) -> str:
    faster = capability.speed_up.get("0.5")
    if faster is None or faster.ratio is None:
        return ""
    bound = "" if faster.bound == "exact" else f"{faster.bound} "
    return f"; {bound}{faster.ratio:.1f} times as fast as the reference learns it"


def _verdict(capability: CapabilityResult) -> Panel:
    colour = COLOURS[capability.verdict]
    reason = one_line(capability.reason)
    lines = [Text(reason[:1].upper() + reason[1:] + ".")]
    told, unclear = list(_excess(capability)), open_questions(capability)
    if unclear:
        names = ", ".join(unclear[:3]) + (", ..." if len(unclear) > 3 else "")
        lines.append(Text(f"No excess recovery is told: {names} leave open what was missed", style="dim"))
    elif told:
        lines += [*told, Text("0% is a model that never knew, 100% is all of it still there", style="dim")]
    title = Text(capability.verdict, style=f"bold {colour}")
    return Panel(Group(*lines), title=title, border_style=colour, title_align="left")


def _excess(capability: CapabilityResult) -> Iterator[Text]:
    """Yields excess recovery at the utility floor and, where it differs, at any utility, with the scores behind it."""
    floor, regardless = capability.excess_recovery, capability.excess_recovery_any_utility
    deciding = decisive(capability)
    for excess, where, field in ((floor, "", "after"), (regardless, "at any utility ", "after_any_utility")):
        if excess is None or (where and excess == floor):
            continue
        bounds = f"  {100 * capability.policy['confidence']:g}% interval {excess.low:.1%} to {excess.high:.1%}"
        share = (f"{excess.estimate:.1%}", "bold" if excess == deciding else "")
        yield Text.assemble(f"excess recovery {where}", share, bounds, _beside(capability, field))


def _beside(capability: CapabilityResult, field: str) -> str:
    """Returns what the target scores after an attack, beside what stands for a model that never knew."""
    after = {role: getattr(scores, field) for role, scores in capability.scores.items()}
    never = [score for role, score in after.items() if is_reference(role)] or [after.get("canary")]
    if after["target"] is None or None in never:
        return ""
    mean = sum(score.estimate for score in never) / len(never)
    return f"  ({after['target'].estimate:.2f} beside {mean:.2f})"


def _brackets(interval: Interval) -> str:
    return f"[{interval.low:.2f}, {interval.high:.2f}]"


def _number(value: object) -> str:
    return f"{value:.2g}" if isinstance(value, float) else str(value)
