"""Where trials of one configuration stand after the same steps, against a walk along each of them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from made_events import point, trial

from redteam.evidence.events import TrialEvent
from redteam.evidence.stops import stops_of

steps = st.sets(st.integers(1, 9), max_size=5)


def reaching(number: int, reached: set[int]) -> TrialEvent:
    """A trial whose select scores name it and the step."""
    return trial("t", *(point(step, number + step / 10) for step in sorted({0} | reached)))


@given(st.lists(steps, min_size=1, max_size=4))
def test_each_stands_where_it_was_last_scored(reached: list[set[int]]) -> None:
    found = dict(stops_of([reaching(number, one) for number, one in enumerate(reached)]))
    assert found.keys() == set().union(*reached)
    standing = [0] * len(reached)
    for step in range(1, 10):
        standing = [step if step in one else last for one, last in zip(reached, standing, strict=True)]
        if step in found:
            assert [p.select for p in found[step]] == [n + last / 10 for n, last in enumerate(standing)]


def test_the_released_weights_are_no_stop() -> None:
    assert list(stops_of([reaching(0, set())])) == []
