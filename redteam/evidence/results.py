"""The schema of `results.json`: what a run found. Stable; `results.schema.json` beside this file is its JSON schema."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from redteam.record import Interval, Record

Verdict = Literal["RESISTED", "RECOVERED", "INCONCLUSIVE"]


SHOWN = "shown"  # how many examples of what was removed an adversary had
ABOUT = ("name", "stopped_at", "asked", SHOWN)  # what is said of an attack beside its parameters


def params_of(attack: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the parameters of an attack, of all that `Scores.attack` says of it."""
    return {name: value for name, value in attack.items() if name not in ABOUT}


class Scores(Record):
    """Certify scores and utility of one model, before and after the strongest confirmed attack.

    Attributes:
        before: certify score of the released weights.
        sides: the same by the side on which items stand out: because the model is surer of them than usual, and because
            it is less sure; None where there are no sides.
        after: certify score after the attack, mean over seeds, with its interval; None for the original.
        after_any_utility: the same after the strongest one whatever happens to utility; None of runs before there was
            such a choice.
        utility_before: score on the utility items.
        utility_after: the same, after that attack; of one that can be switched off, as before it.
        attack: parameters of that attack, and the step it was stopped at; what an item was asked as, where it changed
            the wording. None when no attack beat no attack.
        curve: [steps, certify score] of the best configuration at each number of steps.
    """

    before: float
    sides: tuple[float, float] | None = None
    after: Interval | None = None
    after_any_utility: Interval | None = None
    utility_before: float
    utility_after: float | None = None
    attack: dict[str, Any] | None = None
    curve: list[tuple[int, float]] = Field(default=[])


class TimeToRecovery(Record):
    """First cost at which the target's score reached a level, on each axis by itself.

    None where it never did; censored if so in steps.

    Attributes:
        steps_low: lower end of the interval of steps; None where even that is more than were tried.
        steps_high: upper end; None where it is more than were tried.
    """

    steps: int | None
    samples: int | None
    tokens: int | None
    flops: float | None
    censored: bool
    steps_low: int | None = None
    steps_high: int | None = None


class SpeedUp(Record):
    """Steps the reference needs over steps the target needs, to the same level.

    Attributes:
        ratio: None when neither reached the level.
        bound: "exact"; "at least" when the reference never reached the level within the steps that were tried, "at
            most" when the target did not; "undefined" when neither did.
    """

    ratio: float | None
    bound: Literal["exact", "at least", "at most", "undefined"]


class Probed(Record):
    """What a probe read on `certify`.

    Attributes:
        accuracy: per model.
        control: accuracy of the shuffled-answer probe on the target; selectivity is accuracy minus this.
        erased: accuracy per model of the same probe once the answer was erased from the states, which must be at
            chance; of linear probes alone.
        layer: the layer read, per model.
        leakage: (target - reference) / (original - reference), with its interval; None without both.
        decides: whether it may stand in the way of RESISTED; one that is handed the original may not.
        notes: further figures of the target, by name.
    """

    accuracy: dict[str, float]
    control: dict[str, float]
    erased: dict[str, float] = Field(default={})
    layer: dict[str, str]
    leakage: Interval | None
    decides: bool = True
    notes: dict[str, float] = Field(default={})


class Budget(Record):
    """Search trials asked for and spent on the target, and what was spent beside them."""

    asked: int
    spent: int
    failed: int
    reference: int
    control: int
    confirmation: int
    again: int = 0  # trials of contenders, once more or for longer, before it was decided which to confirm


class Tried(Record):
    """What the search found with one attack.

    Attributes:
        trials: on the target.
        failed: of them.
        best: highest select score at the utility floor, of the target; None where utility never held, and of an attack
            that needs examples where those that it has are counted.
        reference: the same of the reference.
        best_with_examples: the same of the target where the adversary has a few examples; None where none are counted.
        reference_with_examples: likewise of the reference.
        idle: why it proves nothing: it was not tried, or did nothing; None if it is a working attack.
    """

    trials: int
    failed: int
    best: float | None
    reference: float | None
    best_with_examples: float | None = None
    reference_with_examples: float | None = None
    idle: str | None

    @property
    def most(self) -> float | None:
        """The better of both bests; None where utility never held."""
        return max((score for score in (self.best, self.best_with_examples) if score is not None), default=None)


class Recoverer(Record):
    """What an attack that was confirmed recovers at the utility floor.

    Attributes:
        excess_recovery: with its interval.
        p: of recovering no more than is tolerated, adjusted for all attacks that were confirmed.
        recovers: whether more than is tolerated was recovered, whatever else was claimed of this run.
    """

    excess_recovery: Interval | None
    p: float
    recovers: bool


class Also(Record):
    """What a scorer that does not decide says of the models that the deciding one chose.

    Attributes:
        chance: expected score of a model that knows nothing.
        before: mean score of the released weights, by role.
        after: mean over seeds after the attack, by role, with its interval.
        excess_recovery: of the target, with its interval; None where it is not defined.
    """

    chance: float
    before: dict[str, float]
    after: dict[str, Interval]
    excess_recovery: Interval | None


class Worded(Record):
    """What is known under a further wording, at the stops that were chosen by the prompt.

    Attributes:
        asked: how an item of the attack split is asked.
        before: mean score of the released weights, by role.
        after: mean over seeds after the attack, by role, with its interval.
        excess_recovery: of the attacked target, of all that the original says to the prompt; None where it is not
            defined.
        excess_released: the same of the released weights, without any attack.
    """

    asked: str
    before: dict[str, float]
    after: dict[str, Interval]
    excess_recovery: Interval | None
    excess_released: Interval | None


class WithExamples(Record):
    """What a target does with a few examples of what was removed, beside models that never knew.

    Attributes:
        count: examples that the adversary has.
        any_utility: whether whatever happens to utility.
        target: certify score of the target after the best attack, mean over seeds.
        attack: parameters of that attack, the step it was stopped at, and how many examples it had: as many, or fewer.
            None where none beat the released weights, or an older release did not record it.
        alike: the same of the references, with as many examples; None of fewer than three references.
        more: the same with sixteen times as many; None where so many were not tried.
        beyond: target less references with as many, less what is tolerated. A further model that never knew would
            hardly reach its lower end.
        within: the same beside references with more examples. The upper end is of their mean.
    """

    count: int
    any_utility: bool
    target: float
    attack: dict[str, Any] | None = None
    alike: float | None
    more: float | None
    beyond: Interval | None
    within: Interval | None


class Flag(Record):
    """Something that weakens a verdict.

    Attributes:
        name: stable.
        explanation: what was found.
    """

    name: str
    explanation: str


class CapabilityResult(Record):
    """All that a run found about one capability.

    Attributes:
        scorer: how an item is scored.
        also: what further scorers say, by name.
        wordings: what is known under further wordings, in their order.
        p: of recovering no more than is tolerated, at the utility floor or regardless of it.
        looks: at this run, at those that it extends, and at runs beside it that had another seed; each is judged with
            half the error of the one before.
        with_examples: what it does with a few examples of what was removed; empty where none were counted.
        unprobed: probes that read nothing from the target, with the reason.
        tried: what the search found, attack by attack; the verdict rests on what was confirmed.
        recoverers: attacks that were confirmed, and which of them recover; many claims, so each is a little harder.
        access: what the adversary had: the verdict says nothing about one who has more.
        skipped: attacks that do not work on this kind of model, with the reason; the other fields are named after what
            they hold.
    """

    name: str
    verdict: Verdict
    reason: str
    chance: float
    scorer: str = "choice"
    also: dict[str, Also] = Field(default={})
    wordings: list[Worded] = Field(default=[])
    with_examples: list[WithExamples] = Field(default=[])
    certify_items: int
    certify_groups: int
    seeds: int
    policy: dict[str, float]
    looks: int = 1
    excess_recovery: Interval | None
    excess_recovery_any_utility: Interval | None
    p: float | None = None
    recovered_fraction: float | None
    scores: dict[str, Scores]
    time_to_recovery: dict[str, TimeToRecovery]
    speed_up: dict[str, SpeedUp]
    area_under_recovery_curve: dict[str, float]
    best_of_n: list[float]
    untried_mass: float | None
    minimum_detectable_effect: float
    alignment_tax: Interval | None
    probes: dict[str, Probed]
    unprobed: dict[str, str] = Field(default={})
    control_recovered: bool | None
    budget: Budget
    access: str = "weights"
    tried: dict[str, Tried] = Field(default={})
    recoverers: dict[str, Recoverer] = Field(default={})
    skipped: dict[str, str] = Field(default={})
    flags: list[Flag]


class TargetResult(Record):
    """Which model was attacked."""

    name: str
    sha256: str


class Results(Record):
    """`results.json`."""

    schema_version: Literal[1] = 1
    suite: str
    target: TargetResult
    capabilities: list[CapabilityResult]
    exit_code: int


if __name__ == "__main__":
    print(json.dumps(Results.model_json_schema(), indent=2))
