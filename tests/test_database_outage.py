"""gbot.database.outage: pauses that grow, and what is said of an outage."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gbot.database.outage import COMPLAINT_PAUSE_S, PAUSE_MAX_S, PAUSE_MIN_S, Outage


def test_pauses_grow_up_to_a_bound() -> None:
    outage, now, pauses = Outage(), 1000.0, []
    for _ in range(12):
        assert outage.failed("refused", now)
        pauses.append(round(outage.retry_at - now, 6))
        now = outage.retry_at
    assert pauses[:4] == [PAUSE_MIN_S, 2 * PAUSE_MIN_S, 4 * PAUSE_MIN_S, 8 * PAUSE_MIN_S]
    assert pauses[-1] == PAUSE_MAX_S


def test_what_was_under_way_does_not_prolong_a_pause() -> None:
    outage = Outage()
    outage.failed("refused", 1000.0)
    until = outage.retry_at
    assert not outage.failed("reset", 1000.05)
    assert (outage.retry_at, outage.reason) == (until, "reset")


def test_a_success_ends_it() -> None:
    outage = Outage()
    outage.failed("refused", 1000.0)
    assert outage.is_to_be_told(1000.0)
    assert outage.succeeded()
    assert (outage.reason, outage.retry_at) == ("", 0.0)
    assert not outage.succeeded()
    outage.failed("refused", 1001.0)
    assert outage.retry_at == 1001.0 + PAUSE_MIN_S


def test_an_outage_is_told_once_for_each_reason() -> None:
    outage = Outage()
    outage.failed("refused", 1000.0)
    assert outage.is_to_be_told(1000.0)
    assert not outage.is_to_be_told(1000.0 + 10 * COMPLAINT_PAUSE_S)
    outage.failed("access denied", 1000.0 + 10 * COMPLAINT_PAUSE_S)
    assert outage.is_to_be_told(1000.0 + 10 * COMPLAINT_PAUSE_S)


def test_one_outage_after_the_other_is_not_told_at_once() -> None:
    outage = Outage()
    outage.failed("refused", 1000.0)
    assert outage.is_to_be_told(1000.0)
    outage.succeeded()
    outage.failed("refused", 1000.0 + COMPLAINT_PAUSE_S - 1)
    assert not outage.is_to_be_told(1000.0 + COMPLAINT_PAUSE_S - 1)
    assert outage.is_to_be_told(1000.0 + COMPLAINT_PAUSE_S)


def test_an_end_that_followed_nothing_told_is_not_told() -> None:
    outage = Outage()
    outage.failed("refused", 1000.0)
    assert not outage.succeeded()


@given(st.lists(st.floats(0, 20), max_size=50))
def test_it_is_never_worth_asking_in_less_than_the_shortest_pause(steps: list[float]) -> None:
    outage, now = Outage(), 1000.0
    for step in steps:
        now += step
        outage.failed("refused", now)
        assert PAUSE_MIN_S <= outage.wait_s(now) <= PAUSE_MAX_S + 1e-6
