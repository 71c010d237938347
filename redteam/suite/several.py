"""Several capabilities of one model: each a run of its own, side by side in one directory, and one ranked result."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from redteam.access import Access
from redteam.atomic import write
from redteam.capabilities.items import SPLITS, Item, group_numbers
from redteam.errors import InputError
from redteam.evidence.results import Results
from redteam.evidence.sealed import SealedRun
from redteam.judging.case import Scope
from redteam.judging.checks.given import too_few_items
from redteam.judging.checks.policy import CHECKS as CHECKS_OF_POLICY
from redteam.judging.preview import RunPreview
from redteam.judging.statistics import Grouping
from redteam.judging.together import together
from redteam.judging.verdict import STANDARD_POLICY, Policy
from redteam.suite.inputs import Inputs
from redteam.suite.memo import Memo
from redteam.suite.progress import Progress
from redteam.suite.run import run_path
from redteam.suite.standard import run_standard

LACKING = {
    ("original", "language"): "no original was given, and without one nothing is RESISTED: --original",
    ("original", "classifier"): "no original was given, and without one nothing is RESISTED: --original",
    ("reference", "language"): "no reference was given; canaries stand for it, which cannot tell what can be inferred",
    ("reference", "classifier"): "no reference was given, and without one there is no verdict: --reference",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Finished:
    """A model that was attacked.

    Attributes:
        results: what was found about each capability, the most recovered first.
        path: directory of the run, or of one run for each capability.
        runs: these runs with their evidence, in the order of their directories.
    """

    results: Results
    path: Path
    runs: Sequence[SealedRun]


def run_all(many: Sequence[Inputs], progress: Progress, memo: Memo | None = None) -> Finished:
    """Runs the protocol for each capability.

    Of one capability the directory is the run itself. Of several it holds a run for each, and their common
    `results.json`; each is resumed by itself.

    Raises:
        InputError: two capabilities have one name, or the directory is the run of a single one.
    """
    if len(many) == 1:
        path = run_path(many[0])
        results, run = run_standard(many[0], path, progress, memo)
        return Finished(results=results, path=path, runs=[run])
    ordered = sorted(many, key=lambda inputs: inputs.capability.name)
    names = [inputs.capability.name for inputs in ordered]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"two capabilities are called {twice!r}", "Give each a name of its own")
    path = ordered[0].out or _common_path(ordered)
    if (path / "manifest.json").exists():
        raise InputError(f"{path} is the run of one capability", "Choose another place with --out")
    found, done = [], 0
    for number, inputs in enumerate(ordered):
        place = path / f"{number:02d}-{re.sub('[^a-z0-9]+', '-', inputs.capability.name.lower())[:40].strip('-')}"
        named = _Named(progress, inputs.capability.name, done, len(ordered) - number)
        found.append(run_standard(inputs, place, named, memo))
        done = named.done
    results = together([results for results, _ in found])
    write(path / "results.json", results.model_dump_json(indent=2) + "\n")
    return Finished(results=results, path=path, runs=[run for _, run in found])


def preview(inputs: Inputs, policy: Policy = STANDARD_POLICY) -> RunPreview:
    """Returns what would be run, and what it could show by a policy."""
    capability = inputs.capability
    return RunPreview(
        target=inputs.models["target"].name,
        capability=capability.name,
        chance=capability.chance,
        items={split: len(items) for split in SPLITS if (items := getattr(capability, split))},
        facts=_facts(capability.certify),
        budget=inputs.plan.budget,
        earlier=max(inputs.plan.extends, default=0),
        attacks=list(inputs.attacks),
        skipped=dict(inputs.skipped),
        given=[role for role in inputs.models if role != "target"],
        tolerated=policy.max_excess_recovery,
        remarks=_remarks(inputs, policy),
    )


def _remarks(inputs: Inputs, policy: Policy) -> list[str]:
    """Returns what keeps a run from a verdict, whatever it finds: better known before it than after."""
    capability = inputs.capability
    found = [LACKING[role, capability.kind] for role in ("original", "reference") if role not in inputs.models]
    certify, select = (_facts(part) for part in (capability.certify, capability.select))
    scope = Scope(
        policy=policy,
        certify_facts=certify,
        select_facts=select,
        trials=inputs.plan.budget,
        access=Access(inputs.plan.access),
        attacks_asked={*inputs.attacks, *inputs.skipped},
        probes_asked=inputs.probes,
    )
    found += [f"{capability.name} has {few} for a verdict" for few in too_few_items(scope)]
    short = (why for check in CHECKS_OF_POLICY for why in check.explain(scope))
    return [*found, *(f"{capability.name} cannot pass: {why}" for why in short)]


def _facts(items: Sequence[Item]) -> int:
    """Returns how many facts of equal size tell as much as those of these items."""
    return math.floor(Grouping.of(group_numbers(items)).effective)


def _common_path(many: Sequence[Inputs]) -> Path:
    """Returns a directory named after the target and all the plans."""
    prints = "\n".join(inputs.plan.fingerprint for inputs in many)
    single = run_path(many[0])
    return single.with_name(f"{single.name.rpartition('-')[0]}-{hashlib.sha256(prints.encode()).hexdigest()[:8]}")


class _Named:
    """Says of which capability a stage is, and counts on from the capabilities before it."""

    def __init__(self, progress: Progress, name: str, done: int, left: int) -> None:
        self.progress, self.name, self.done, self.left = progress, name, done, left
        self.before = done

    def note(self, text: str) -> None:
        """As `Progress`."""
        self.progress.note(f"{self.name}: {text}")

    def plan(self, trials: int) -> None:
        """As `Progress`; those that are left are taken to need as many trials as this one."""
        self.progress.plan(self.before + trials * self.left)

    def stage(self, what: str) -> None:
        """As `Progress`."""
        self.progress.stage(f"{self.name}: {what}")

    def within(self, what: str) -> None:
        """As `Progress`."""
        self.progress.within(what)

    def trial(self, score: float | None) -> None:
        """As `Progress`."""
        self.done += 1
        self.progress.trial(score)
