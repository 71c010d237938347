"""A limit on what may hang: it strikes in time, names itself, and leaves signals as they were."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from redteam.engine import deadline
from redteam.engine.deadline import AttackHung, closed_within, steps_within, within

pytestmark = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="there is no limit here")
SHORT = 0.05


@pytest.fixture(autouse=True)
def _signals_are_as_before() -> Iterator[None]:
    """Whatever a test does, its handler and its timer are put back."""
    handler = signal.signal(signal.SIGALRM, other)
    yield
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    assert signal.getsignal(signal.SIGALRM) is other
    signal.signal(signal.SIGALRM, handler)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """An alarm that is not heeded goes off again soon."""
    monkeypatch.setattr(deadline, "REPEATED", (0.05, 0.05))


def other(number: int, frame: Any) -> None:
    raise AssertionError("a handler of somebody else")


def spin() -> None:
    while True:
        pass


def sleep() -> None:
    time.sleep(30)


def catches_exceptions() -> None:
    while True:
        with contextlib.suppress(Exception):
            time.sleep(30)


@pytest.mark.parametrize("hang", [spin, sleep, catches_exceptions])
def test_what_hangs_is_stopped_in_time(hang: Callable[[], None]) -> None:
    began = time.monotonic()
    with pytest.raises(AttackHung, match=r"^no step within 0\.05 s$"):
        within(SHORT, hang)
    assert SHORT <= time.monotonic() - began < 5


def test_what_comes_in_time_is_returned() -> None:
    assert within(30.0, lambda: "done") == "done"


@pytest.mark.parametrize("error", [ValueError("no"), StopIteration(), SystemExit(1), KeyboardInterrupt()])
def test_what_is_raised_in_time_comes_out(error: BaseException) -> None:
    def fail() -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        within(30.0, fail)
    assert caught.value is error


def test_the_limit_is_told_as_a_person_would_write_it() -> None:
    assert str(deadline._Alarm(deadline.STEP_LIMIT).hung()) == "no step within 600 s"


def catches_all_and_returns() -> None:
    with contextlib.suppress(BaseException):
        time.sleep(30)


def catches_all_and_raises_another() -> None:
    try:
        time.sleep(30)
    except BaseException as error:
        raise ValueError("something else") from error


def catches_all_and_says_it_is_at_its_end() -> None:
    try:
        time.sleep(30)
    except BaseException as error:
        raise StopIteration from error


@pytest.mark.parametrize(
    "hang", [catches_all_and_returns, catches_all_and_raises_another, catches_all_and_says_it_is_at_its_end]
)
def test_an_alarm_that_was_caught_is_told_all_the_same(hang: Callable[[], None]) -> None:
    with pytest.raises(AttackHung):
        within(SHORT, hang)


def test_an_alarm_that_is_not_heeded_goes_off_again(quick: None) -> None:
    times = []

    def stubborn() -> None:
        for _ in range(3):
            with contextlib.suppress(BaseException):
                time.sleep(30)
            times.append(time.monotonic())
        time.sleep(30)

    with pytest.raises(AttackHung):
        within(SHORT, stubborn)
    assert len(times) == 3


def test_what_takes_down_what_it_put_up_has_a_second_for_it() -> None:
    """The alarm must not strike a clean-up that has just begun."""
    done = []

    def cleans_up() -> None:
        try:
            time.sleep(30)
        finally:
            time.sleep(10 * SHORT)
            done.append(True)

    with pytest.raises(AttackHung):
        within(SHORT, cleans_up)
    assert done


def test_no_alarm_comes_after_the_call() -> None:
    for _ in range(50):
        within(0.01, lambda: None)
    time.sleep(0.03)


def test_an_alarm_at_the_very_end_leaves_nothing() -> None:
    """Calls that end when the alarm goes off: whichever is first, handler and timer are put back."""
    ended = {True: 0, False: 0}
    for number in range(60):
        until = time.monotonic() + 0.003 + number * 1e-4

        def call(until: float = until) -> bool:
            while time.monotonic() < until:
                pass
            return True

        try:
            ended[within(0.0055, call)] += 1
        except AttackHung:
            ended[False] += 1
        assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
        assert signal.getsignal(signal.SIGALRM) is other
    assert all(ended.values())


def test_a_timer_of_before_goes_on() -> None:
    rung: list[float] = []
    before = signal.signal(signal.SIGALRM, lambda number, frame: rung.append(time.monotonic()))
    try:
        began = time.monotonic()
        signal.setitimer(signal.ITIMER_REAL, 0.3, 0.1)
        assert within(30.0, lambda: time.sleep(0.05)) is None
        assert not rung
        while len(rung) < 2 and time.monotonic() < began + 20:
            time.sleep(0.01)
        assert rung[0] - began >= 0.299
        assert len(rung) >= 2  # its interval is kept as well
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_a_timer_that_was_due_meanwhile_goes_off_afterwards() -> None:
    rung: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda number, frame: rung.append(number))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        within(30.0, lambda: time.sleep(0.05))
        time.sleep(0.02)
        assert rung == [signal.SIGALRM]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_one_limit_inside_another() -> None:
    with pytest.raises(AttackHung, match=r"within 0\.05 s"):
        within(30.0, lambda: within(SHORT, sleep))
    with pytest.raises(AttackHung, match=r"within 0\.1 s"):
        within(0.1, lambda: [within(30.0, lambda: time.sleep(0.02)) for _ in range(1000)])


@pytest.mark.parametrize("seconds", [0, -1.0, math.nan])
def test_a_limit_that_is_none(seconds: float) -> None:
    with pytest.raises(ValueError, match="not a positive number of seconds"):
        within(seconds, lambda: None)


@pytest.mark.parametrize("seconds", [math.inf, 1e300])
def test_no_limit(seconds: float) -> None:
    def call() -> Any:
        return signal.getsignal(signal.SIGALRM)

    assert within(seconds, call) is other


def test_another_thread_has_no_limit_and_runs_all_the_same() -> None:
    results: list[str] = []

    def work() -> None:
        results.append(within(SHORT, lambda: time.sleep(4 * SHORT) or "late"))  # type: ignore[func-returns-value]

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert results == ["late"]


# Steps.


def test_steps_pass_through_and_the_time_between_them_is_not_counted() -> None:
    seen = []
    for step in steps_within(0.5, iter(range(3))):
        time.sleep(0.3)
        seen.append(step)
    assert seen == [0, 1, 2]


def test_each_step_has_the_whole_limit() -> None:
    def steps() -> Iterator[int]:
        for step in range(4):
            time.sleep(0.3)
            yield step

    assert list(steps_within(1.0, steps())) == [0, 1, 2, 3]


def test_a_step_that_does_not_come() -> None:
    def steps() -> Iterator[int]:
        yield 0
        sleep()
        yield 1

    following = steps_within(0.5, steps())
    assert next(following) == 0
    with pytest.raises(AttackHung):
        next(following)


# Closing.


def test_closing_happens_whatever_happened() -> None:
    closed = []
    with closed_within(30.0, lambda: closed.append(1)):
        pass
    with pytest.raises(ValueError, match="inside"), closed_within(30.0, lambda: closed.append(2)):
        raise ValueError("inside")
    assert closed == [1, 2]


def test_a_closing_that_hangs() -> None:
    with pytest.raises(AttackHung), closed_within(SHORT, sleep):
        pass
    with pytest.raises(AttackHung), closed_within(SHORT, sleep):
        raise ValueError("inside")


@pytest.mark.parametrize("close", [sleep, lambda: 1 / 0], ids=["hangs", "raises"])
def test_an_interrupt_is_not_lost_in_a_closing_that_goes_wrong(close: Callable[[], Any]) -> None:
    with pytest.raises(KeyboardInterrupt), closed_within(SHORT, close):
        raise KeyboardInterrupt


def test_an_interrupt_by_the_user_comes_out_of_a_call() -> None:
    """SIGINT, in a process of its own, while an alarm is set: as ever a KeyboardInterrupt, and no hang."""
    program = (
        "import os, signal, threading\n"
        "from redteam.engine.deadline import within\n"
        "threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT)).start()\n"
        "def spin():\n"
        "    while True: pass\n"
        "try:\n"
        "    within(30.0, spin)\n"
        "except KeyboardInterrupt:\n"
        "    print(signal.getitimer(signal.ITIMER_REAL), signal.getsignal(signal.SIGALRM))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, env={**os.environ}, check=True
    )
    assert done.stdout.strip() == f"(0.0, 0.0) {signal.SIG_DFL}"
