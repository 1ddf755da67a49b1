"""gbot.database.outage: pauses that grow, and when trouble is spoken of."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from gbot.database.outage import (
    COMPLAINT_PAUSE_S,
    PAUSE_MAX_S,
    PAUSE_MIN_S,
    REASONS_MAX,
    REMINDER_PAUSE_MAX_S,
    Outage,
    Trouble,
)


def test_pauses_grow_up_to_a_bound() -> None:
    outage, now, pauses = Outage(), 1000.0, []
    for _ in range(12):
        outage.failed("refused", now)
        pauses.append(round(outage.retry_at - now, 6))
        now = outage.retry_at
    assert pauses[:4] == [PAUSE_MIN_S, 2 * PAUSE_MIN_S, 4 * PAUSE_MIN_S, 8 * PAUSE_MIN_S]
    assert pauses[-1] == PAUSE_MAX_S


def test_what_was_under_way_does_not_prolong_a_pause() -> None:
    outage = Outage()
    outage.failed("refused", 1000.0)
    until = outage.retry_at
    outage.failed("reset", 1000.05)
    assert (outage.retry_at, outage.reason) == (until, "reset")


def test_a_success_ends_it() -> None:
    outage = Outage()
    outage.failed("refused", 1000.0)
    outage.succeeded(1000.1, 1000.2)
    assert (outage.reason, outage.retry_at, outage.succeeded_at) == ("", 0.0, 1000.2)
    outage.failed("refused", 1001.0)
    assert outage.retry_at == 1001.0 + PAUSE_MIN_S


def test_a_success_of_what_was_begun_before_the_failure_says_nothing() -> None:
    """A server that is full lets some in and refuses the others of those that come at once."""
    outage = Outage()
    outage.failed("full", 1000.0)
    outage.succeeded(999.9, 1000.01)
    assert (outage.reason, outage.retry_at) == ("full", 1000.0 + PAUSE_MIN_S)


def test_after_a_failure_there_is_room_for_one_at_a_time() -> None:
    outage = Outage()
    assert outage.room(1000.0, 32) == 32
    outage.begun(1000.0)
    assert outage.room(1000.0, 32) == 32
    outage.failed("refused", 1000.01)
    assert outage.room(1000.02, 32) == 0
    assert outage.room(outage.retry_at, 32) == 1
    outage.begun(outage.retry_at)
    outage.succeeded(outage.retry_at, 1000.5)
    assert outage.room(1000.5, 32) == 32


def test_a_server_that_refuses_its_work_has_a_connection_replaced_now_and_then() -> None:
    outage = Outage()
    replaced = [millisecond for millisecond in range(1000) if outage.refused(1000 + millisecond / 1000)]
    assert replaced == [0, 250, 500, 750]
    assert (outage.reason, outage.room(1001.0, 32)) == ("", 1)
    outage.begun(1001.0)
    assert outage.room(1001.0 + PAUSE_MIN_S / 2, 32) == 0  # however many are asked for, and go wrong
    assert outage.room(1001.0 + PAUSE_MIN_S, 32) == 1
    outage.refused(1001.1)
    outage.succeeded(1001.0, 1001.2)
    assert outage.room(1001.2, 32) == 1
    outage.succeeded(1001.2, 1001.3)
    assert outage.room(1001.3, 32) == 32


@given(st.lists(st.floats(0, 20), max_size=50))
def test_it_is_never_worth_asking_in_less_than_the_shortest_pause(steps: list[float]) -> None:
    outage, now = Outage(), 1000.0
    for step in steps:
        now += step
        outage.failed("refused", now)
        assert PAUSE_MIN_S <= outage.wait_s(now) <= PAUSE_MAX_S + 1e-6


# What is told.


def told_at(trouble: Trouble, reasons: list[str], seconds: int, start: int = 1000) -> list[int]:
    """When it is told, in seconds since the start, if it happens every second with these reasons in turn."""
    return [s for s in range(seconds) if trouble.is_to_be_told(reasons[s % len(reasons)], start + s)]


def test_it_is_told_at_once_and_then_less_and_less_often() -> None:
    times = told_at(Trouble(), ["refused"], 5000)
    assert times[:4] == [0, 10, 60, 360]
    assert [later - earlier for earlier, later in itertools.pairwise(times[3:])] == [REMINDER_PAUSE_MAX_S] * 7


def test_another_reason_is_told_but_not_within_the_pause_of_complaints() -> None:
    trouble = Trouble()
    assert trouble.is_to_be_told("refused", 1000.0)
    assert trouble.is_to_be_told("refused", 1010.0)
    assert not trouble.is_to_be_told("access denied", 1010.0 + COMPLAINT_PAUSE_S - 1)
    assert trouble.is_to_be_told("access denied", 1010.0 + COMPLAINT_PAUSE_S)


def test_reasons_that_always_change_are_told_so_often_and_no_more() -> None:
    times = told_at(Trouble(), [f"reason {number}" for number in range(1000)], 1000)
    assert len(times) <= REASONS_MAX + 3


def test_one_trouble_after_the_other_is_not_told_at_once() -> None:
    trouble = Trouble()
    assert trouble.is_to_be_told("refused", 1000.0)
    assert trouble.ends()
    assert not trouble.is_to_be_told("refused", 1000.0 + COMPLAINT_PAUSE_S - 1)
    assert trouble.is_to_be_told("refused", 1000.0 + COMPLAINT_PAUSE_S)
    assert trouble.lasted_s(1000.0 + COMPLAINT_PAUSE_S) == 1


def test_an_end_is_told_if_the_trouble_was() -> None:
    trouble = Trouble()
    assert not trouble.ends()
    trouble.is_to_be_told("refused", 1000.0)
    assert trouble.ends()
    trouble.is_to_be_told("refused", 1001.0)
    assert not trouble.ends()
    assert trouble.since is None
