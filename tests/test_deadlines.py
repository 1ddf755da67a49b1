"""Deadlines: exactly those whose time is over, whatever the timeouts and the order in which others are done."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gbot.deadlines import Deadlines


def test_one_is_named_until_it_is_discarded() -> None:
    deadlines: Deadlines[str] = Deadlines()
    deadlines.add("a", 5, 5)
    assert deadlines.over(5) == []
    assert deadlines.over(5.1) == deadlines.over(6) == ["a"]
    deadlines.discard("a", 5)
    deadlines.discard("a", 5)
    deadlines.discard("never added", 7)
    assert deadlines.over(100) == []


@given(
    st.lists(st.tuples(st.sampled_from([0.5, 1.0, 20.0]), st.floats(0, 3), st.booleans()), max_size=50),
    st.floats(0, 200),
)
def test_exactly_those_over_their_own_time_are_named(plans: list[tuple[float, float, bool]], now: float) -> None:
    """Each plan: a timeout, how long after the one before it starts, whether it is done in time."""
    deadlines: Deadlines[int] = Deadlines()
    started, expected = 0.0, set()
    for number, (timeout_s, pause_s, done) in enumerate(plans):
        started += pause_s
        deadlines.add(number, timeout_s, started + timeout_s)
        if done:
            deadlines.discard(number, timeout_s)
        elif started + timeout_s < now:
            expected.add(number)
    over = deadlines.over(now)
    assert set(over) == expected
    assert len(over) == len(expected)
