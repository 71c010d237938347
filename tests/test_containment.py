"""What becomes of an attack that hangs, raises or leaves the model changed: contained, named, and never RESISTED."""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from run_redteam import ONE_PROBE, redteam
from tiny_models import same_bits, tiny_capability, tiny_target, weights_of
from torch import nn

from redteam.attacks.contract import Access, Arena, Params
from redteam.attacks.noop import NoOp
from redteam.engine import deadline
from redteam.engine.cost import Spent
from redteam.engine.snapshot import StructureChanged
from redteam.setting import Setting, open_setting
from redteam.trial import TrialResult, TrialSpec, run_trial

LIMIT = 0.2


@pytest.fixture
def setting() -> Setting:
    return open_setting(tiny_target(), tiny_capability())


class Scripted(NoOp):
    """Does what a test tells it, under a limit."""

    access = Access.WEIGHTS

    def __init__(self, body: Callable[[Arena], Any], step_limit: Any = LIMIT) -> None:
        self.body, self.step_limit = body, step_limit

    def run(self, arena: Arena, params: Params) -> Any:
        return self.body(arena)


def trial(setting: Setting, body: Callable[[Arena], Any], step_limit: Any = LIMIT) -> TrialResult:
    return run_trial(setting, Scripted(body, step_limit), TrialSpec(key="t", attack="scripted", params={}, seed=0))


def hang(*_: Any) -> None:
    while True:
        time.sleep(10)


def shake(arena: Arena) -> None:
    with torch.no_grad():
        for parameter in arena.module.parameters():
            parameter.add_(0.5)


def hangs_between_steps(arena: Arena) -> Iterator[Spent]:
    shake(arena)
    yield Spent(steps=1)
    hang()


def hangs_before_its_first_step(arena: Arena) -> Iterator[Spent]:
    shake(arena)
    hang()
    yield Spent(steps=1)


def hangs_without_being_a_generator(arena: Arena) -> Any:
    shake(arena)
    hang()


def hangs_and_catches_exceptions(arena: Arena) -> Iterator[Spent]:
    while True:
        try:
            hang()
        except Exception:  # noqa: BLE001 - what such attacks do
            yield Spent(steps=1)


def hangs_and_catches_everything_once(arena: Arena) -> Iterator[Spent]:
    try:
        hang()
    except BaseException:  # noqa: BLE001 - what such attacks do
        shake(arena)
    yield Spent(steps=1)


def hangs_in_closing(arena: Arena) -> Iterator[Spent]:
    try:
        yield Spent(steps=1)
        with torch.no_grad():
            next(arena.module.parameters()).fill_(torch.nan)
        yield Spent(steps=2)  # scoring ends the trial here, and closes
    finally:
        hang()


def hangs_at_its_end(arena: Arena) -> Iterator[Spent]:
    try:
        yield Spent(steps=1)
    finally:
        hang()


def hangs_in_taking_down(arena: Arena) -> Iterator[Spent]:
    arena.in_place.callback(hang)
    yield Spent(steps=1)


class Steps:
    """An iterator that is no generator."""

    def __init__(self, arena: Arena) -> None:
        self.steps = 0

    def __iter__(self) -> Iterator[Spent]:
        return self

    def __next__(self) -> Spent:
        self.steps += 1
        if self.steps > 2:
            hang()
        return Spent(steps=self.steps)


HANGING = [
    (hangs_between_steps, [0, 1]),
    (hangs_before_its_first_step, [0]),
    (hangs_without_being_a_generator, [0]),
    (hangs_and_catches_exceptions, [0]),
    (hangs_and_catches_everything_once, [0]),
    (hangs_in_closing, [0, 1]),
    (hangs_at_its_end, [0, 1]),
    (hangs_in_taking_down, [0, 1]),
    (Steps, [0, 1, 2]),
]


@pytest.mark.parametrize(("body", "scored"), HANGING)
def test_an_attack_that_hangs_is_a_failed_trial(setting: Setting, body: Any, scored: list[int]) -> None:
    before = weights_of(setting.target.module)
    began = time.monotonic()
    result = trial(setting, body)
    assert time.monotonic() - began < 10
    assert (result.state, result.error) == ("failed", "AttackHung: no step within 0.2 s")
    assert [point.spent.steps for point in result.points] == scored  # what was scored before stands
    assert same_bits(weights_of(setting.target.module), before)


def test_an_attack_that_goes_on_hanging_in_a_finally_is_stopped_as_well(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deadline, "REPEATED", (0.1, 0.1))

    def body(arena: Arena) -> Iterator[Spent]:
        try:
            hang()
            yield Spent(steps=1)
        finally:
            hang()

    assert trial(setting, body).error == "AttackHung: no step within 0.2 s"


def test_an_attack_is_not_charged_for_being_scored(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    from redteam import trial as trials

    scored = trials.scores_of

    def slowly(*given: Any) -> Any:
        time.sleep(2 * LIMIT)
        return scored(*given)

    monkeypatch.setattr(trials, "scores_of", slowly)
    result = trial(setting, lambda arena: (Spent(steps=step) for step in (1, 2)))
    assert (result.state, result.error) == ("complete", None)
    assert result.seconds["scoring"] > 4 * LIMIT


@pytest.mark.parametrize("step_limit", [0, -1, float("nan"), "soon", None])
def test_a_limit_that_is_none_is_a_failed_trial(setting: Setting, step_limit: Any) -> None:
    result = trial(setting, lambda arena: iter([Spent(steps=1)]), step_limit)
    assert result.state == "failed"
    assert [point.spent.steps for point in result.points] == [0]


def test_an_attack_that_says_nothing_has_ten_minutes(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = []
    within = deadline.within
    monkeypatch.setattr(deadline, "within", lambda seconds, call: limits.append(seconds) or within(seconds, call))
    result = run_trial(setting, NoOp(), TrialSpec(key="t", attack="noop", params={"steps": 2}, seed=0))
    assert result.state == "complete"
    assert set(limits) == {600.0}


def test_an_interrupt_during_a_trial_is_not_lost_where_closing_hangs(setting: Setting) -> None:
    def body(arena: Arena) -> Iterator[Spent]:
        arena.in_place.callback(hang)
        try:
            yield Spent(steps=1)
            raise KeyboardInterrupt
        finally:
            hang()

    with pytest.raises(KeyboardInterrupt):
        trial(setting, body)


class Unheard(BaseException):
    """Neither an exception nor an interrupt."""


def test_whatever_is_raised_is_a_failed_trial(setting: Setting) -> None:
    """Else Python itself would end the process, with exit code 1, which means that a gate failed."""

    def body(arena: Arena) -> Iterator[Spent]:
        raise Unheard("of")
        yield

    result = trial(setting, body)
    assert (result.state, result.error) == ("failed", "Unheard: of")


def test_a_context_in_place_cannot_swallow_what_goes_wrong(setting: Setting) -> None:
    from contextlib import suppress

    def body(arena: Arena) -> Iterator[Spent]:
        arena.in_place.enter_context(suppress(Exception))
        yield Spent(steps=1)
        raise ValueError("told all the same")

    assert trial(setting, body).error == "ValueError: told all the same"


def test_the_process_is_as_it_was(setting: Setting) -> None:
    def state() -> list[Any]:
        threads = torch.get_num_threads()
        settings = [torch.get_default_dtype(), torch.is_grad_enabled(), threads, os.getcwd()]
        return [random.getstate(), np.random.get_state()[1].tolist(), torch.random.get_rng_state().tolist(), *settings]

    def body(arena: Arena) -> Iterator[Spent]:
        random.seed(3)
        np.random.seed(3)
        torch.manual_seed(3)
        yield Spent(steps=1)
        torch.set_default_dtype(torch.float64)
        torch.set_grad_enabled(False)
        torch.set_num_threads(2)
        os.chdir("/")
        raise ValueError("and does not come to put it back")

    before = state()
    assert trial(setting, body).state == "failed"
    assert state() == before


@pytest.mark.parametrize(
    ("leave", "says"),
    [
        (lambda module: module.register_buffer("extra", torch.zeros(1)), "extra is new"),
        (
            lambda module: setattr(module.model.layers[0].mlp, "act_fn", nn.Identity()),
            r"mlp\.act_fn is another Identity",
        ),
    ],
)
def test_a_module_that_cannot_be_restored_ends_the_run(setting: Setting, leave: Any, says: str) -> None:
    def body(arena: Arena) -> Iterator[Spent]:
        leave(arena.module)
        yield Spent(steps=1)

    with pytest.raises(StructureChanged, match=says):
        trial(setting, body)


def test_what_an_instance_computes_by_itself_is_gone_in_the_next_trial(setting: Setting) -> None:
    def body(arena: Arena) -> Iterator[Spent]:
        part = arena.module.model.layers[0].mlp
        part.forward = lambda states: states * 0
        yield Spent(steps=1)

    first = trial(setting, body)
    assert first.outputs_moved > 0
    nothing = run_trial(setting, NoOp(), TrialSpec(key="t", attack="noop", params={"steps": 1}, seed=0))
    assert nothing.outputs_moved == 0
    assert "forward" not in vars(setting.target.module.model.layers[0].mlp)


# The same, as a user meets it: a file of one's own, a real process.

FILE = """
import time

from redteam.attacks.noop import NoOp
from redteam.engine.cost import Spent


class Hangs(NoOp):
    name = "hangs"
    step_limit = 0.5

    def run(self, arena, params):
        yield Spent(steps=1)
        while True:
            try:
                time.sleep(60)
            except Exception:
                pass


class Raises(NoOp):
    name = "raises"

    def run(self, arena, params):
        yield Spent(steps=1)
        raise RuntimeError("out of ideas")


class Leaves(NoOp):
    name = "leaves"

    def run(self, arena, params):
        arena.module.register_buffer("souvenir", arena.module.lm_head.weight.detach().clone())
        yield Spent(steps=1)
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(FILE)
    return path


def events(run: Path, kind: str) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    return [row for row in rows if row["type"] == kind]


def test_a_run_with_attacks_that_hang_and_raise(untrained: Path, file: Path, tmp_path: Path) -> None:
    """Each trial is failed with its cause, and the run comes to its end without a verdict."""
    run = tmp_path / "run"
    done = redteam(
        "attack", untrained, "-a", f"{file}:Hangs", "-a", f"{file}:Raises", *ONE_PROBE, "--budget", "2",
        "--format", "json", "--out", run,
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    result = json.loads(done.stdout)["capabilities"][0]
    assert result["verdict"] == "INCONCLUSIVE"
    assert result["budget"]["failed"] == 2
    assert "failed-trials" in {flag["name"] for flag in result["flags"]}
    causes = {row["attack"].rpartition(":")[2]: (row["state"], row["error"]) for row in events(run, "trial")}
    assert causes == {
        "Hangs": ("failed", "AttackHung: no step within 0.5 s"),
        "Raises": ("failed", "RuntimeError: out of ideas"),
    }


def test_a_run_with_an_attack_that_leaves_the_model_changed(untrained: Path, file: Path, tmp_path: Path) -> None:
    """One line says which attack it is and what it left; what was found before is still there."""
    run = tmp_path / "run"
    done = redteam("attack", untrained, "-a", f"{file}:Leaves", "-a", "noop", *ONE_PROBE, "--budget", "2", "--out", run)
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert lines == [
        f"error: {file}:Leaves: an attack changed the module's structure: souvenir is new. "
        "Let the attack take down what it puts up; `redteam.testing` checks that"
    ]
    assert "Traceback" not in done.stderr
    assert "RESISTED" not in done.stdout
    assert not (run / "results.json").exists()
    assert [row["key"] for row in events(run, "before")] == ["original/before", "reference/before", "target/before"]
