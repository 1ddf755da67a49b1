"""The memory inbox: all of a delivery or nothing of it, bounded by number and by bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gbot.errors import DeliveryTooLarge, InboxFull
from gbot.event import Event
from gbot.inbox import Entry, Outcome, State
from gbot.inboxes.memory import MemoryInbox

DONE = Outcome(State.DONE)


def events(count: int) -> list[Event]:
    return [Event(platform="plain", kind="message.text", raw=str(number), text=str(number)) for number in range(count)]


def test_entries_come_in_the_order_of_their_events() -> None:
    inbox = MemoryInbox(10, 1000)
    entries = inbox.put(events(3), 30)
    assert [entry.event.text for entry in entries] == ["0", "1", "2"]
    assert len({entry.number for entry in entries}) == 3
    statistics = inbox.statistics()
    assert (statistics.held, statistics.held_bytes, statistics.accepted) == (3, 30, 3)


def test_a_delivery_that_does_not_fit_now_is_refused_whole_and_fits_later() -> None:
    inbox = MemoryInbox(3, 1000)
    first, _ = inbox.put(events(2), 10)
    with pytest.raises(InboxFull):
        inbox.put(events(2), 10)
    assert inbox.statistics().held == 2
    inbox.settle(first, DONE)
    assert len(inbox.put(events(2), 10)) == 2


def test_bytes_are_bounded_as_well() -> None:
    inbox = MemoryInbox(100, 1000)
    [large] = inbox.put(events(1), 900)
    with pytest.raises(InboxFull):
        inbox.put(events(1), 200)
    inbox.settle(large, DONE)
    assert inbox.statistics().held_bytes == 0
    assert inbox.put(events(1), 200)


@pytest.mark.parametrize(("count", "size"), [(4, 10), (1, 1001)])
def test_a_delivery_that_would_never_fit_is_too_large(count: int, size: int) -> None:
    with pytest.raises(DeliveryTooLarge):
        MemoryInbox(3, 1000).put(events(count), size)


def test_a_delivery_without_events_always_fits() -> None:
    inbox = MemoryInbox(1, 1000)
    inbox.put(events(1), 1000)
    assert inbox.put([], 14) == []


@given(st.lists(st.one_of(st.tuples(st.integers(0, 6), st.integers(1, 60)), st.none()), max_size=60))
def test_the_books_are_right_and_the_bounds_hold(steps: list[tuple[int, int] | None]) -> None:
    """Steps are deliveries (events, bytes), or None: the oldest entry is settled."""
    inbox, held, settled = MemoryInbox(10, 100), list[Entry](), 0
    for step in steps:
        if step is None:
            if held:
                inbox.settle(held.pop(0), DONE)
                settled += 1
            continue
        try:
            held += inbox.put(events(step[0]), step[1])
        except InboxFull:
            assert len(held) + step[0] > 10 or sum(entry.size_bytes for entry in held) + step[1] + step[0] > 100
    statistics = inbox.statistics()
    assert statistics.held == len(held) <= 10
    assert statistics.held_bytes == sum(entry.size_bytes for entry in held) <= 100
    assert statistics.settled[State.DONE] == settled
