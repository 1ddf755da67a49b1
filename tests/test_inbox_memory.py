"""The memory inbox: all of a delivery or nothing of it, bounded; seen ids, and what waits for its next attempt."""

from __future__ import annotations

import time
from collections.abc import Iterable

import gevent
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gbot.directory import StateChange, UserGone
from gbot.errors import DeliveryTooLarge, InboxFull
from gbot.event import Conversation, Event
from gbot.inbox import Entry, Outcome, State
from gbot.inboxes.memory import IDS_MAX, MemoryInbox, RecentIds
from gbot.inboxes.memory_directory import MemoryDirectory
from tests.rig import event, text_event, wait_until

DONE = Outcome(State.DONE)
DEAD = Outcome(State.DEAD, "it failed for good")
RELEASED = Outcome(State.RELEASED)


def retry(after_s: float) -> Outcome:
    return Outcome(State.RETRY, "it failed", after_s)


def events(count: int) -> list[Event]:
    return [text_event(str(number)) for number in range(count)]


class Desk:
    """A memory inbox, and what it has handed out, in that order."""

    def __init__(
        self, held_max: int = 1000, bytes_max: int = 100_000, strict: bool = True, dedup_window_s: float = 3600
    ) -> None:
        self.inbox = MemoryInbox(held_max, bytes_max, strict=strict, dedup_window_s=dedup_window_s)
        self.out: list[Entry] = []
        self.inbox.start(self._submit, lambda: 1000, lambda: self.out)

    def _submit(self, entries: Iterable[Entry]) -> None:
        self.out.extend(entries)

    def put(self, *given: Event) -> list[Entry]:
        """Hand these in; returns what was handed out in answer."""
        before = len(self.out)
        self.inbox.put(given, len(given))
        return self.out[before:]

    def texts(self) -> list[str | None]:
        return [entry.event.text for entry in self.out]


def test_entries_are_handed_out_at_once_in_the_order_of_their_events() -> None:
    desk = Desk()
    before_ms = time.time_ns() // 1_000_000
    entries = desk.put(*events(3))
    assert [entry.event.text for entry in entries] == ["0", "1", "2"]
    assert len({entry.number for entry in entries}) == 3
    assert {entry.attempts for entry in entries} == {0}
    assert all(before_ms <= entry.received_ms <= time.time_ns() // 1_000_000 for entry in entries)
    statistics = desk.inbox.statistics()
    assert (statistics.held, statistics.accepted, statistics.refused) == (3, 3, 0)


def test_it_says_of_itself_that_it_keeps_nothing() -> None:
    assert (MemoryInbox.keeps, MemoryInbox.place) == (False, "memory:")


# ---- bounds


def test_a_delivery_that_does_not_fit_now_is_refused_whole_and_fits_later() -> None:
    desk = Desk(held_max=3)
    first, _ = desk.put(*events(2))
    with pytest.raises(InboxFull):
        desk.put(*events(2))
    statistics = desk.inbox.statistics()
    assert (statistics.held, statistics.accepted, statistics.refused) == (2, 2, 2)
    desk.inbox.settle(first, DONE)
    assert len(desk.put(*events(2))) == 2


def test_bytes_are_bounded_as_well() -> None:
    desk = Desk(bytes_max=1000)
    desk.inbox.put(events(1), 900)
    with pytest.raises(InboxFull, match="1 event of 900 bytes is waiting or running; the inbox"):
        desk.inbox.put(events(1), 200)
    desk.inbox.settle(desk.out[0], DONE)
    desk.inbox.put(events(1), 200)
    assert len(desk.out) == 2


@pytest.mark.parametrize(("count", "size"), [(4, 10), (1, 1001)])
def test_a_delivery_that_would_never_fit_is_too_large(count: int, size: int) -> None:
    desk = Desk(held_max=3, bytes_max=1000)
    with pytest.raises(DeliveryTooLarge):
        desk.inbox.put(events(count), size)
    assert desk.out == []


def test_a_delivery_without_events_always_fits() -> None:
    desk = Desk(held_max=1, bytes_max=1000)
    desk.inbox.put(events(1), 1000)
    desk.inbox.put([], 14)
    assert len(desk.out) == 1


def test_what_waits_for_its_next_attempt_is_held() -> None:
    desk = Desk(held_max=1)
    [entry] = desk.put(text_event("x"))
    desk.inbox.settle(entry, retry(30))
    assert desk.inbox.statistics().held == 1
    with pytest.raises(InboxFull):
        desk.put(text_event("y"))
    desk.inbox.stop(time.monotonic())


@given(st.lists(st.one_of(st.tuples(st.integers(0, 6), st.integers(1, 60)), st.none()), max_size=60))
def test_the_books_are_right_and_the_bounds_hold(steps: list[tuple[int, int] | None]) -> None:
    """Steps are deliveries (events, bytes), or None: the oldest entry is settled."""
    desk, settled = Desk(held_max=10, bytes_max=100), 0
    for step in steps:
        held = desk.out[settled:]
        if step is None:
            if held:
                desk.inbox.settle(held[0], DONE)
                settled += 1
            continue
        try:
            desk.inbox.put(events(step[0]), step[1])
        except InboxFull:
            assert len(held) + step[0] > 10 or sum(entry.size_bytes for entry in held) + step[1] + step[0] > 100
    statistics = desk.inbox.statistics()
    assert statistics.held == len(desk.out) - settled <= 10
    assert sum(entry.size_bytes for entry in desk.out[settled:]) <= 100
    assert statistics.settled[State.DONE] == settled


# ---- events that come again


def test_an_event_that_was_seen_is_dropped_and_counted() -> None:
    desk = Desk()
    assert len(desk.put(event("follow", id="1"), event("follow", id="2"), event("follow", id="1"))) == 2
    assert len(desk.put(event("follow", id="2"), event("follow", id="3"))) == 1
    statistics = desk.inbox.statistics()
    assert (statistics.accepted, statistics.duplicates, statistics.held) == (3, 2, 3)


def test_events_without_an_id_are_never_the_same() -> None:
    desk = Desk()
    assert len(desk.put(event("follow"), event("follow"))) == 2
    assert len(desk.put(event("follow"))) == 1
    assert desk.inbox.statistics().duplicates == 0


def test_a_delivery_that_was_refused_was_not_seen() -> None:
    desk = Desk(held_max=1)
    [entry] = desk.put(event("follow", id="1"))
    with pytest.raises(InboxFull):
        desk.put(event("follow", id="2"))
    desk.inbox.settle(entry, DONE)
    assert len(desk.put(event("follow", id="2"))) == 1


def test_a_duplicate_takes_up_no_room() -> None:
    desk = Desk(held_max=2)
    desk.put(event("follow", id="1"), event("follow", id="1"))
    assert len(desk.put(event("follow", id="2"))) == 1


def test_an_id_is_forgotten_when_its_window_is_over() -> None:
    ids = RecentIds(window_s=10, count_max=100)
    assert ids.add("line", "a", 1_000)
    assert not ids.add("line", "a", 10_999)
    assert ids.add("line", "a", 11_000)
    assert not ids.add("line", "a", 20_999)


def test_the_platform_is_a_part_of_the_id() -> None:
    ids = RecentIds(window_s=10, count_max=100)
    assert ids.add("line", "a", 0)
    assert ids.add("plain", "a", 0)


def test_no_more_than_so_many_ids_are_remembered_and_the_oldest_go_first() -> None:
    ids = RecentIds(window_s=10, count_max=3)
    assert [ids.add("line", name, 0) for name in "abcd"] == [True] * 4
    assert [ids.add("line", name, 0) for name in "bcd"] == [False] * 3
    assert ids.add("line", "a", 0)
    assert not ids.add("line", "d", 0)


def test_an_id_that_comes_back_after_its_window_is_the_youngest() -> None:
    ids = RecentIds(window_s=10, count_max=2)
    for name, now_ms in [("a", 0), ("b", 5_000), ("a", 11_000), ("c", 11_000)]:
        assert ids.add("line", name, now_ms)
    assert not ids.add("line", "a", 11_000)
    assert ids.add("line", "b", 11_000)


def test_the_inbox_remembers_a_bounded_number_of_ids() -> None:
    desk = Desk(held_max=IDS_MAX + 1, bytes_max=IDS_MAX + 1)
    first = event("follow", id="the first")
    desk.put(first)
    desk.put(*(event("follow", id=str(number)) for number in range(IDS_MAX)))
    assert desk.inbox.statistics().duplicates == 0
    desk.inbox.settle(desk.out[0], DONE)
    assert len(desk.put(first)) == 1


# ---- later attempts


def test_an_entry_that_is_to_be_tried_again_comes_when_it_is_due_and_not_before() -> None:
    desk = Desk()
    [entry] = desk.put(text_event("x"))
    started = time.monotonic()
    desk.inbox.settle(entry, retry(0.1))
    wait_until(lambda: len(desk.out) == 2)
    assert time.monotonic() - started >= 0.099
    again = desk.out[1]
    assert (again.number, again.attempts, again.event) == (entry.number, 1, entry.event)
    assert again.received_ms == entry.received_ms
    desk.inbox.settle(again, retry(0))
    wait_until(lambda: len(desk.out) == 3)
    assert desk.out[2].attempts == 2
    desk.inbox.settle(desk.out[2], DEAD)
    statistics = desk.inbox.statistics()
    assert statistics.held == 0
    assert (statistics.settled[State.RETRY], statistics.settled[State.DEAD]) == (2, 1)


@settings(max_examples=20)
@given(st.lists(st.sampled_from([0.0, 0.01, 0.02, 0.05]), max_size=20))
def test_entries_come_in_the_order_in_which_they_are_due(pauses: list[float]) -> None:
    desk = Desk()
    entries = desk.put(*events(len(pauses)))
    for entry, pause in zip(entries, pauses, strict=True):
        desk.inbox.settle(entry, retry(pause))
    wait_until(lambda: len(desk.out) == 2 * len(pauses))
    due = sorted(zip(pauses, entries, strict=True), key=lambda pair: pair[0])
    assert [entry.number for entry in desk.out[len(pauses) :]] == [entry.number for _, entry in due]


def test_one_that_is_due_sooner_does_not_wait_for_one_that_is_due_later() -> None:
    desk = Desk()
    late, soon = desk.put(*events(2))
    desk.inbox.settle(late, retry(30))
    desk.inbox.settle(soon, retry(0.01))
    wait_until(lambda: len(desk.out) == 3)
    assert desk.out[2].number == soon.number
    desk.inbox.stop(time.monotonic())


def test_strict_order_holds_back_what_is_behind() -> None:
    desk = Desk()
    first, second = desk.put(text_event("first", "anna"), text_event("second", "anna"))
    desk.inbox.settle(first, retry(0.05))
    desk.inbox.settle(second, RELEASED)  # as the dispatcher does it
    desk.put(text_event("third", "anna"), text_event("ben's", "ben"), text_event("nobody's"))
    assert desk.texts() == ["first", "second", "ben's", "nobody's"]
    wait_until(lambda: len(desk.out) == 5)
    desk.put(text_event("fourth", "anna"))
    assert desk.texts()[4:] == ["first"]
    assert desk.inbox.statistics().held == 6
    desk.inbox.settle(desk.out[4], DONE)
    assert desk.texts()[5:] == ["second", "third", "fourth"]
    desk.put(text_event("fifth", "anna"))
    assert desk.texts()[8:] == ["fifth"]


@pytest.mark.parametrize("end", [DONE, DEAD, Outcome(State.UNHANDLED), Outcome(State.DROPPED)], ids=str)
def test_whatever_ends_an_entry_lets_those_behind_it_go_on(end: Outcome) -> None:
    desk = Desk()
    [first] = desk.put(text_event("first", "anna"))
    desk.inbox.settle(first, retry(0))
    desk.put(text_event("second", "anna"))
    wait_until(lambda: len(desk.out) == 2)
    desk.inbox.settle(desk.out[1], end)
    assert desk.texts() == ["first", "first", "second"]
    desk.inbox.settle(desk.out[2], DONE)
    assert desk.inbox.statistics().held == 0


def test_relaxed_order_holds_nothing_back() -> None:
    desk = Desk(strict=False)
    [first] = desk.put(text_event("first", "anna"))
    desk.inbox.settle(first, retry(0.02))
    desk.put(text_event("second", "anna"))
    assert desk.texts() == ["first", "second"]
    wait_until(lambda: len(desk.out) == 3)
    assert desk.texts() == ["first", "second", "first"]


def test_a_stopped_inbox_hands_nothing_out() -> None:
    desk = Desk()
    [entry] = desk.put(text_event("x"))
    desk.inbox.settle(entry, retry(0.01))
    assert desk.inbox.stop(time.monotonic() + 1) == 0
    gevent.sleep(0.05)
    assert len(desk.out) == 1


def test_an_entry_that_is_released_is_gone() -> None:
    desk = Desk()
    [entry] = desk.put(text_event("x", "anna"))
    desk.inbox.settle(entry, RELEASED)
    assert desk.inbox.statistics().held == 0
    assert len(desk.put(text_event("y", "anna"))) == 1


def test_nothing_passes_until_all_that_are_tried_again_have_ended() -> None:
    desk = Desk()
    first, second, third = desk.put(*(text_event(name, "anna") for name in ("first", "second", "third")))
    desk.inbox.settle(first, Outcome(State.RETRY, "put off", 0.0, counted=False))
    desk.inbox.settle(second, Outcome(State.RETRY, "put off", 0.0, counted=False))
    desk.inbox.settle(third, DONE)  # it ran already: its end lets nobody go on
    desk.put(text_event("fourth", "anna"))
    wait_until(lambda: desk.texts()[3:] == ["first", "second"])
    desk.inbox.settle(desk.out[3], DONE)
    assert len(desk.out) == 5
    desk.inbox.settle(desk.out[4], DONE)
    assert desk.texts()[5:] == ["fourth"]


# ---- users and states are bounded


def test_no_more_than_so_many_users_are_kept_and_the_oldest_go_first() -> None:
    directory = MemoryDirectory(users_max=3)
    directory.save([UserGone("plain", name, True, 1) for name in ("anna", "ben", "carl")])
    directory.save([UserGone("plain", "anna", False, 2), UserGone("plain", "dora", True, 1)])
    assert set(directory.users("plain", ["anna", "ben", "carl", "dora"])) == {"anna", "carl", "dora"}


def test_no_more_than_so_much_of_states_is_kept_and_the_oldest_go_first() -> None:
    directory = MemoryDirectory(state_chars_max=10)
    rooms = {name: Conversation("room", name) for name in "abc"}

    def save(name: str, document: str | None) -> None:
        directory.save([StateChange("plain", rooms[name], document, 10**15)])

    def kept() -> set[str]:
        return {name for name, room in rooms.items() if directory.state("plain", room) is not None}

    for name in "abab":
        save(name, "12345")
        save(name, "54321")
    assert kept() == {"a", "b"}
    save("b", None)
    save("c", "12345")
    assert kept() == {"a", "c"}
    save("b", "1")
    assert kept() == {"b", "c"}
    save("b", "12345678901")
    assert kept() == set()
    save("a", "1234567890")
    assert kept() == {"a"}
