"""A time limit on code that is not ours: what hangs in it is stopped, and named."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import Any, TypeVar

STEP_LIMIT = 600.0  # seconds; of an attack that has no `step_limit` of its own
REPEATED = (1.0, 10.0)  # seconds; shortest and longest wait until an alarm that was not heeded goes off again
LONGEST = 1e8  # seconds; what is longer, infinity included, is no limit
T = TypeVar("T")


class AttackHung(BaseException):
    """An attack did not come to its next step in time.

    No `Exception`, so that an attack which catches those does not catch this.
    """


def within(seconds: float, call: Callable[[], T]) -> T:
    """Returns what a call returns, if it does so in time. What is raised inside comes out, as ever.

    An alarm (POSIX `setitimer`) raises `AttackHung` wherever the call is by then. One that is caught goes off again
    after as long as the limit, but within one to ten seconds: so long it has to take down what it put up. It is told
    all the same when the call returns after all. The handler and the timer of before are put back; a timer that was
    running goes off no earlier than that.

    There is no limit outside the main thread, on Windows, and where another library has put a handler that Python
    does not know; and none can end a call that never comes back to Python, or that catches everything for ever. Time
    during which the process was suspended counts.

    Args:
        seconds: how long it may take. More than `LONGEST`, infinity say, is no limit.
        call: runs in this thread.

    Raises:
        AttackHung: it took longer.
        ValueError: the limit is no positive number.
    """
    if not seconds > 0:
        raise ValueError(f"a time limit of {seconds} is not a positive number of seconds")
    alarm = _Alarm(seconds)
    try:
        try:
            alarm.set()
            result = call()
        finally:
            alarm.stop()
    except AttackHung as hung:
        if _interrupted(hung):  # while it was cleaning up after an interrupt: that is what was asked for
            raise KeyboardInterrupt from hung
        raise
    except Exception as error:
        if alarm.rung:  # caught, and something else raised or the end told in its place
            raise alarm.hung() from error
        raise
    finally:
        alarm.stop()  # had it gone off while it was being stopped, it would be half stopped
    if alarm.rung:
        raise alarm.hung()
    return result


def steps_within(seconds: float, steps: Iterable[T]) -> Iterator[T]:
    """Yields what `steps` yields, each within the limit. What the caller does meanwhile is not timed.

    Raises:
        AttackHung: the next did not come in time.
        ValueError: the limit is no positive number.
    """
    running = within(seconds, lambda: iter(steps))
    while True:
        try:
            step = within(seconds, lambda: next(running))
        except StopIteration:
            return
        yield step


@contextmanager
def closed_within(seconds: float, close: Callable[[], Any]) -> Iterator[None]:
    """Calls `close` at the end, whatever happened meanwhile, within the limit.

    What goes wrong in closing never takes the place of an interrupt: who pressed Ctrl-C means the whole run.

    Raises:
        AttackHung: closing took longer.
        ValueError: the limit is no positive number.
    """
    interrupted = False
    try:
        yield
    except KeyboardInterrupt:
        interrupted = True
        raise
    finally:
        with suppress(Exception, AttackHung) if interrupted else nullcontext():
            within(seconds, close)


class _Alarm:
    """Raises `AttackHung` in the main thread once a time is over, until it is stopped."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.rung = self._armed = self._set = False
        self._timer = (0.0, 0.0)

    def hung(self) -> AttackHung:
        """Returns what is raised."""
        return AttackHung(f"no step within {self.seconds:g} s")

    def set(self) -> None:
        """Starts, where there can be an alarm."""
        if self.seconds > LONGEST or not _possible():
            return
        shortest, longest = REPEATED
        self._handler = signal.signal(signal.SIGALRM, self._ring)
        self._set = self._armed = True
        self._began = time.monotonic()
        again = min(max(self.seconds, shortest), longest)
        self._timer = signal.setitimer(signal.ITIMER_REAL, self.seconds, again)

    def stop(self) -> None:
        """Puts handler and timer back; a second time does nothing."""
        self._armed = False
        if not self._set:
            return
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self._handler)
        remaining, interval = self._timer
        if remaining:
            signal.setitimer(signal.ITIMER_REAL, max(remaining - (time.monotonic() - self._began), 1e-6), interval)
        self._set = False

    def _ring(self, number: int, frame: Any) -> None:
        if self._armed:
            self.rung = True
            raise self.hung()


def _interrupted(error: BaseException | None) -> bool:
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None


def _possible() -> bool:
    """Returns whether this thread can have an alarm, and put back what handles one now."""
    in_main = threading.current_thread() is threading.main_thread()
    return in_main and hasattr(signal, "setitimer") and signal.getsignal(signal.SIGALRM) is not None
