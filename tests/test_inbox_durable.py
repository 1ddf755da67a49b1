"""The durable inbox over a real SQLite file: what 200 means, what shares a commit, and what happens when it breaks."""

from __future__ import annotations

import logging
import random
import re
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import gevent
import pytest
from gevent.event import Event as GreenEvent

from gbot import Bot, Context, Conversation
from gbot.directory import ProfileSeen, StateChange, UserForgotten, UserGone
from gbot.dispatcher import Dispatcher
from gbot.errors import DeliveryTooLarge, DirectoryUnavailable, InboxFull, StartError, StoreUnavailable
from gbot.event import Event
from gbot.execution import Execution
from gbot.inbox import Entry, Outcome, State
from gbot.inboxes.calls import Call, InOneThread, directly
from gbot.inboxes.desk import SqlDesk
from gbot.inboxes.durable import DurableInbox
from gbot.inboxes.parcels import PUT_TIMEOUT_S
from gbot.inboxes.records import STATES_AT_ONCE
from gbot.inboxes.sqlite import SqliteStore
from gbot.inboxes.store import Look, Place, Policy, Record, StoreDown, StoreFull, StoreRefused, Tidied, Turned, Work
from gbot.user import Profile, User
from tests.rig import Outbox, event, services, text_event, wait_until

T = TypeVar("T")

POLICY = Policy(strict=True, dedup_window_ms=3_600_000, keep_done_ms=0)
DONE = Outcome(State.DONE)
DEAD = Outcome(State.DEAD, "it failed for good")


class Hang:
    """Something to wait for in the store's thread, or in a greenlet when it is called directly."""

    def __init__(self, call: Call) -> None:
        self._event = threading.Event() if isinstance(call, InOneThread) else GreenEvent()
        self.entered = False

    def __call__(self) -> None:
        self.entered = True
        self._event.wait(30)

    def over(self) -> None:
        self._event.set()


class Written(NamedTuple):
    """What a turn has written down, without holding on to the events themselves."""

    settled: list[int]  # numbers
    events: int


class WatchedStore:
    """Passes everything on to a real store and keeps count; fails, or hangs, while a test wants it to."""

    blocks = True

    def __init__(self, store: SqliteStore) -> None:
        self.place = store.place
        self._store = store
        self.calls: list[str] = []
        self.turns: list[Written] = []
        self.asked: list[int] = []  # how many states with each query
        self.mistake: Exception | None = None  # raised when states are asked for
        self.error: BaseException | None = None  # raised instead of doing anything
        self.full = False  # turns with events are refused
        self.lose_answers = False  # the next turn is done, and fails after that
        self.lose_claims = False  # the same for the next turn that hands something out
        self.poison: str | None = None  # no turn with an event of this text can be done
        self.hang: Hang | None = None  # waited for before anything is done

    def _do(self, method: Callable[..., T], *args: object) -> T:
        self.calls.append(method.__name__)
        if self.hang is not None:
            self.hang()
        if self.error is not None:
            raise self.error
        return method(*args)

    def open(self) -> None:
        self._do(self._store.open)

    def enlist(self) -> int:
        return self._do(self._store.enlist)

    def turn(self, life: int, work: Work) -> Turned:
        if self.full and work.events:
            raise StoreFull("the disk is full")
        if any(event.text == self.poison for event in work.events if self.poison is not None):
            raise StoreDown("the database cannot take that")
        turned = self._do(self._store.turn, life, work)
        self.turns.append(Written([entry.number for entry, _ in work.settlements], len(work.events)))
        if self.lose_answers or (self.lose_claims and turned.running):
            self.lose_answers = self.lose_claims = False
            raise StoreDown("the connection broke")
        return turned

    def look(self, life: int) -> Look:
        return self._do(self._store.look, life)

    def tidy(self, life: int, now_ms: int) -> Tidied:
        return self._do(self._store.tidy, life, now_ms)

    def orphans(self, life: int, known: Sequence[int]) -> int:
        return self._do(self._store.orphans, life, known)

    def states(self, conversations: Sequence[str], now_ms: int) -> dict[str, str]:
        self.asked.append(len(conversations))
        if self.mistake is not None:
            raise self.mistake
        return self._do(self._store.states, conversations, now_ms)

    def users(self, wanted: Sequence[tuple[str, str]]) -> dict[tuple[str, str], User]:
        return self._do(self._store.users, wanted)

    def leave(self, life: int) -> None:
        self._do(self._store.leave, life)

    def close(self) -> None:
        self._store.close()


class Bench:
    """A durable inbox, what it has handed out, and a second connection to look at its file with."""

    def __init__(
        self, path: Path, call: Call, pool: int, held_max: int, bytes_max: int, waits: bool, policy: Policy
    ) -> None:
        self.store = WatchedStore(SqliteStore(path, policy))
        self.call = call
        self.inbox = DurableInbox(self.store, call, held_max, bytes_max, waits)
        self.other = SqliteStore(path, policy)
        self.desk = SqlDesk(self.other)
        self.out: list[Entry] = []
        self.pool = pool
        self.in_hand: list[Entry] = []
        self._dispatcher: Dispatcher | None = None
        self.inbox.start(self._submit, self._room, self._in_hand)

    def connect(self, dispatcher: Dispatcher) -> None:
        """From now on a real dispatcher gets what is handed out."""
        self._dispatcher = dispatcher

    def _submit(self, entries: Iterable[Entry]) -> None:
        if self._dispatcher is not None:
            self._dispatcher.submit(entries)
            return
        taken = list(entries)
        self.out.extend(taken)
        self.in_hand.extend(taken)

    def _room(self) -> int:
        return self._dispatcher.room() if self._dispatcher is not None else max(0, self.pool - len(self.in_hand))

    def _in_hand(self) -> Iterable[Entry]:
        return self._dispatcher.in_hand() if self._dispatcher is not None else self.in_hand

    def put(self, *events: Event, body_bytes: int = 1) -> None:
        self.inbox.put(events, body_bytes)

    def put_when_possible(self, event: Event) -> None:
        """Again and again, as a platform does, until the store is thought well."""
        deadline = time.monotonic() + 10
        while True:
            try:
                return self.put(event)
            except StoreUnavailable:
                assert time.monotonic() < deadline
                gevent.sleep(0.05)

    def settle(self, *entries: Entry, outcome: Outcome = DONE) -> None:
        for entry in entries:
            self.in_hand.remove(entry)
            self.inbox.settle(entry, outcome)

    def settle_all(self) -> None:
        self.settle(*self.in_hand)

    def texts(self) -> list[str]:
        return [entry.event.text or "" for entry in self.out]

    def records(self) -> list[Record]:
        """Everything that is in the file now."""
        return self.desk.records(list(Place), 0, 10_000)

    def places(self) -> dict[str, Place]:
        return {record.event.text or "": record.place for record in self.records()}

    def stop(self, seconds: float = 5.0) -> int:
        return self.inbox.stop(time.monotonic() + seconds)

    def end(self) -> None:
        """However the test ended: let nothing hang or fail, stop, and close the files."""
        if self.store.hang is not None:
            self.store.hang.over()
        self.store.error, self.store.hang, self.store.full = None, None, False
        self.stop()
        self.other.close()
        self.call(self.store.close)  # after whatever still goes on in its thread


@pytest.fixture(params=["in a thread", "directly"])
def call(request: pytest.FixtureRequest) -> Call:
    return InOneThread() if request.param == "in a thread" else directly


MakeBench = Callable[..., Bench]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[MakeBench]:
    benches: list[Bench] = []

    def make_bench(
        pool: int = 1000,
        held_max: int = 10_000,
        bytes_max: int = 1_000_000,
        waits: bool = True,
        call: Call | None = None,
        policy: Policy = POLICY,
        file: str = "inbox.sqlite3",
    ) -> Bench:
        made = Bench(tmp_path / file, call or InOneThread(), pool, held_max, bytes_max, waits, policy)
        benches.append(made)
        return made

    yield make_bench
    for bench in benches:
        bench.end()


def texts(count: int, start: int = 0) -> list[Event]:
    return [text_event(str(number)) for number in range(start, start + count)]


def refusal(bench: Bench, *events: Event) -> StoreUnavailable:
    with pytest.raises(StoreUnavailable) as raised:
        bench.put(*(events or (text_event("refused"),)))
    return raised.value


@pytest.fixture(autouse=True)
def with_good_news(caplog: pytest.LogCaptureFixture) -> None:
    """That a store is well again is no more than an INFO."""
    caplog.set_level(logging.INFO, "gbot.inboxes.health")


def lines(caplog: pytest.LogCaptureFixture, level: str) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelname == level]


# ---- putting


def test_put_returns_when_the_events_are_on_the_disk(make: MakeBench, call: Call) -> None:
    bench = make(call=call)
    wait_until(lambda: "look" in bench.store.calls)
    bench.store.hang = hang = Hang(call)
    putting = gevent.spawn(bench.put, *texts(3))
    wait_until(lambda: hang.entered)
    assert not putting.ready()
    assert bench.places() == {}
    bench.store.hang = None
    hang.over()
    putting.get(timeout=5)
    assert bench.places() == {"0": Place.RUNNING, "1": Place.RUNNING, "2": Place.RUNNING}


def test_what_has_room_runs_at_once_in_its_order(make: MakeBench, call: Call) -> None:
    bench = make(call=call)
    bench.put(*texts(3))
    bench.put(*texts(2, start=3))
    wait_until(lambda: len(bench.out) == 5)
    assert bench.texts() == ["0", "1", "2", "3", "4"]
    assert [entry.number for entry in bench.out] == sorted(entry.number for entry in bench.out)
    statistics = bench.inbox.statistics()
    assert (statistics.held, statistics.accepted, statistics.unsaved) == (5, 5, 0)
    bench.settle_all()
    wait_until(lambda: bench.records() == [])
    wait_until(lambda: bench.inbox.statistics().held == 0)


def test_many_deliveries_and_outcomes_share_few_commits(make: MakeBench) -> None:
    bench = make()
    bench.put(text_event("first"))
    before = len(bench.store.turns)
    putters = [gevent.spawn(bench.put, given) for given in texts(300)]
    gevent.joinall(putters, timeout=10, raise_error=True)
    assert sum(turn.events for turn in bench.store.turns[before:]) == 300
    assert len(bench.store.turns) - before <= 6
    wait_until(lambda: len(bench.out) == 301)
    before = len(bench.store.turns)
    bench.settle_all()
    wait_until(lambda: bench.records() == [])
    assert len(bench.store.turns) - before <= 6


def test_an_event_that_was_seen_is_stored_once(make: MakeBench) -> None:
    bench = make()
    putters = [gevent.spawn(bench.put, event("follow", id="the same")) for _ in range(50)]
    gevent.joinall(putters, timeout=10, raise_error=True)
    assert len(bench.records()) == 1
    statistics = bench.inbox.statistics()
    assert (statistics.accepted, statistics.duplicates, statistics.held) == (1, 49, 1)


def test_what_cannot_be_opened_does_not_start(tmp_path: Path) -> None:
    path = tmp_path / "inbox.sqlite3"
    path.write_bytes(b"no database at all, but long enough to be one" * 100)
    store = SqliteStore(path, POLICY)
    inbox = DurableInbox(store, InOneThread(), 10, 1000)
    with pytest.raises(StartError):
        inbox.start(lambda entries: None, lambda: 10, lambda: ())
    assert inbox.stop(time.monotonic() + 1) == 0
    store.close()


# ---- more than there is room for


def test_what_has_no_room_stays_stored_and_is_claimed_as_room_frees(make: MakeBench) -> None:
    bench = make(pool=5)
    bench.put(*texts(50))
    wait_until(lambda: len(bench.out) == 5)
    places = list(bench.places().values())
    assert (places.count(Place.RUNNING), places.count(Place.READY)) == (5, 45)
    bench.settle(bench.out[0])
    wait_until(lambda: len(bench.out) == 6)
    while len(bench.out) < 50:
        seen = len(bench.out)
        bench.settle_all()
        wait_until(lambda seen=seen: len(bench.out) > seen)
    assert bench.texts() == [str(number) for number in range(50)]
    bench.settle_all()
    wait_until(lambda: bench.records() == [])


def test_new_events_do_not_overtake_those_that_wait(make: MakeBench) -> None:
    bench = make(pool=2)
    bench.put(*texts(4))
    wait_until(lambda: len(bench.out) == 2)
    bench.pool = 100
    bench.put(text_event("new"))
    wait_until(lambda: len(bench.out) == 5)
    assert bench.texts() == ["0", "1", "2", "3", "new"]


def test_what_has_no_room_is_not_kept_in_memory(make: MakeBench) -> None:
    bench = make(pool=0)
    backlog = texts(3000)
    before = [sys.getrefcount(given) for given in backlog]
    bench.put(*backlog)
    wait_until(lambda: [sys.getrefcount(given) for given in backlog] == before)
    assert bench.out == []
    assert bench.inbox.statistics().held == 3000


def test_a_backlog_of_an_earlier_worker_is_run(make: MakeBench) -> None:
    first = make(pool=3)
    first.put(*texts(10))
    wait_until(lambda: len(first.out) == 3)
    first.settle(first.out[0])
    wait_until(lambda: len(first.out) == 4)
    assert first.stop() == 0
    second = make()
    wait_until(lambda: len(second.out) == 9)
    assert sorted(second.texts()) == sorted(str(number) for number in range(1, 10))
    assert second.inbox.statistics().held == 9


def test_strict_order_holds_over_turns(make: MakeBench) -> None:
    bench = make()
    bench.put(text_event("first", "anna"))
    bench.put(text_event("second", "anna"))
    bench.put(text_event("third", "anna"), text_event("ben's", "ben"))
    wait_until(lambda: len(bench.out) == 2)
    assert bench.texts() == ["first", "ben's"]
    bench.settle(bench.out[0], outcome=Outcome(State.RETRY, "it failed", 0.0))
    wait_until(lambda: len(bench.out) == 3)
    again = bench.out[2]
    assert (again.event.text, again.attempts) == ("first", 1)
    for text in ("second", "third"):
        bench.settle(bench.out[-1])
        wait_until(lambda text=text: bench.texts()[-1] == text)


# ---- bounds


def test_the_number_of_entries_is_bounded(make: MakeBench) -> None:
    bench = make(held_max=10)
    bench.put(*texts(8))
    with pytest.raises(InboxFull):
        bench.put(*texts(3))
    bench.put(*texts(2, start=8))
    with pytest.raises(InboxFull):
        bench.put(text_event("one more"))
    wait_until(lambda: len(bench.out) == 10)
    bench.settle(bench.out[0])
    wait_until(lambda: bench.inbox.statistics().held == 9)
    bench.put(text_event("fits"))
    statistics = bench.inbox.statistics()
    assert (statistics.accepted, statistics.refused, statistics.held) == (11, 4, 10)


def test_dead_entries_count_too(make: MakeBench) -> None:
    bench = make(held_max=2)
    bench.put(*texts(2))
    wait_until(lambda: len(bench.out) == 2)
    bench.settle(*bench.out, outcome=DEAD)
    wait_until(lambda: set(bench.places().values()) == {Place.DEAD})
    with pytest.raises(InboxFull, match="2 events are waiting, running or dead; the inbox holds 2"):
        bench.put(text_event("x"))


def test_the_bound_holds_for_deliveries_that_come_at_the_same_time(make: MakeBench) -> None:
    bench = make(held_max=100)
    wait_until(lambda: "look" in bench.store.calls)
    putters = [gevent.spawn(_put_or_refuse, bench, texts(10, start=10 * number)) for number in range(50)]
    gevent.joinall(putters, timeout=10, raise_error=True)
    assert len(bench.records()) == 100
    assert sorted(putter.value for putter in putters) == [False] * 40 + [True] * 10


def _put_or_refuse(bench: Bench, events: list[Event]) -> bool:
    try:
        bench.put(*events)
    except InboxFull:
        return False
    return True


@pytest.mark.parametrize(("count", "body_bytes"), [(11, 1), (1, 1001)])
def test_a_delivery_that_would_never_fit_is_too_large(make: MakeBench, count: int, body_bytes: int) -> None:
    bench = make(held_max=10, bytes_max=1000)
    with pytest.raises(DeliveryTooLarge, match="holds 10 events and takes 1,000 bytes at once"):
        bench.put(*texts(count), body_bytes=body_bytes)
    assert bench.inbox.statistics().refused == count


def test_bytes_that_wait_to_be_stored_are_bounded(make: MakeBench, call: Call) -> None:
    bench = make(bytes_max=1000, call=call)
    wait_until(lambda: "look" in bench.store.calls)
    bench.store.hang = hang = Hang(call)
    putting = gevent.spawn(bench.put, text_event("large"), body_bytes=900)
    wait_until(lambda: hang.entered)
    with pytest.raises(InboxFull):
        bench.put(text_event("x"), body_bytes=200)
    bench.store.hang = None
    hang.over()
    putting.get(timeout=5)
    bench.put(text_event("x"), body_bytes=1000)
    assert len(bench.records()) == 2


# ---- a store that fails


def test_a_store_that_hangs_does_not_hold_up_the_answers(make: MakeBench, call: Call) -> None:
    bench = make(bytes_max=1000, call=call)
    wait_until(lambda: "look" in bench.store.calls)
    bench.store.hang = hang = Hang(call)
    started = time.monotonic()
    putters = [gevent.spawn(refusal, bench, given) for given in texts(3)]
    gevent.sleep(0.2)  # these come when the first ones are under way
    putters += [gevent.spawn(refusal, bench, given) for given in texts(3, start=3)]
    gevent.joinall(putters, timeout=10, raise_error=True)
    assert PUT_TIMEOUT_S * 0.9 < time.monotonic() - started < PUT_TIMEOUT_S + 3
    bench.store.hang = None
    hang.over()
    wait_until(lambda: bench.inbox.statistics().unstored == 0)
    bench.put(*texts(1, start=6), body_bytes=1000)  # nothing of what was refused takes up room any more
    stored = bench.records()
    statistics = bench.inbox.statistics()
    assert statistics.accepted == statistics.held == len(stored)


def test_while_the_store_is_down_deliveries_are_refused_at_once(
    make: MakeBench, call: Call, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    bench = make(call=call)
    bench.put(text_event("do not log this"))
    bench.store.error = StoreDown("no connection")
    with pytest.raises(StoreUnavailable):
        bench.put(text_event("do not log this either"))
    for _ in range(20):
        started = time.monotonic()
        assert refusal(bench).retry_after > 0
        assert time.monotonic() - started < 0.5
    bench.store.error = None
    wait_until(lambda: lines(caplog, "INFO"))
    bench.put(text_event("after"))
    assert set(bench.places()) == {"do not log this", "after"}
    assert bench.inbox.statistics().refused == 21
    [down] = lines(caplog, "ERROR")
    [up] = lines(caplog, "INFO")
    assert down.startswith(f"The inbox {bench.store.place} cannot be used: no connection. Deliveries get 503 until")
    assert re.fullmatch(rf"The inbox {re.escape(bench.store.place)} can be used again after [\d.]+ s", up)
    assert "do not log this" not in caplog.text
    assert "Traceback" not in caplog.text
    assert capfd.readouterr().err == ""


def test_one_delivery_that_cannot_be_stored_takes_no_neighbour_with_it(make: MakeBench, call: Call) -> None:
    bench = make(call=call)
    bench.store.poison = "poison"
    putting = {text: gevent.spawn(bench.put, text_event(text)) for text in ("a", "b", "poison", "c", "d")}
    gevent.joinall(list(putting.values()), timeout=10)
    refused = {text for text, one in putting.items() if one.exception is not None}
    assert refused == {"poison"}
    assert isinstance(putting["poison"].exception, StoreUnavailable)
    wait_until(lambda: len(bench.out) == 4)
    assert set(bench.places()) == set("abcd")


def test_a_delivery_that_was_answered_and_can_never_be_stored_is_given_up_in_the_end(
    make: MakeBench, caplog: pytest.LogCaptureFixture
) -> None:
    bench = make(waits=False)
    bench.store.poison = "poison"
    for text in ("a", "poison", "b"):
        bench.put(text_event(text))
    wait_until(lambda: set(bench.places()) == {"a", "b"}, deadline_s=60)
    wait_until(lambda: any("a delivery of 1 event that" in line for line in lines(caplog, "ERROR")), deadline_s=60)
    assert bench.inbox.statistics().unstored == 0


def test_outcomes_are_kept_in_their_order_and_written_when_the_store_is_back(
    make: MakeBench, call: Call, caplog: pytest.LogCaptureFixture
) -> None:
    bench = make(call=call)
    bench.put(*texts(30))
    wait_until(lambda: len(bench.out) == 30)
    order = [*bench.out[::2], *bench.out[1::2]]
    looks = bench.store.calls.count("look")
    wait_until(lambda: bench.store.calls.count("look") > looks)  # the next one is a second away
    before = len(bench.store.turns)
    bench.store.hang = hang = Hang(call)
    for number, entry in enumerate(order):
        bench.settle(entry, outcome=DEAD if entry.number % 3 == 0 else DONE)
        gevent.sleep(0.02)
        if number == 10:  # the first outcomes are on their way, others have come after them
            bench.store.error = StoreDown("no connection")
            bench.store.hang = None
            hang.over()
    wait_until(lambda: bench.inbox.statistics().unsaved == 30)
    assert len(bench.records()) == 30
    bench.store.error = None
    dead = {entry.number for entry in order if entry.number % 3 == 0}
    wait_until(lambda: {record.number for record in bench.records()} == dead)
    wait_until(lambda: bench.inbox.statistics().held == len(dead))
    written = [number for turn in bench.store.turns[before:] for number in turn.settled]
    assert written == [entry.number for entry in order]
    assert len(lines(caplog, "ERROR")) == len(lines(caplog, "INFO")) == 1
    statistics = bench.inbox.statistics()
    assert (statistics.late, statistics.unsaved) == (0, 0)


def test_two_outages_are_two_pairs_of_lines(make: MakeBench, caplog: pytest.LogCaptureFixture) -> None:
    bench = make()
    for count in (1, 2):
        bench.store.error = StoreDown("no connection")
        wait_until(lambda count=count: len(lines(caplog, "ERROR")) == count)
        bench.store.error = None
        wait_until(lambda count=count: len(lines(caplog, "INFO")) == count)


@pytest.mark.parametrize("waits", [True, False], ids=["stored", "received"])
def test_a_store_that_is_full_takes_outcomes_and_no_events(
    make: MakeBench, waits: bool, caplog: pytest.LogCaptureFixture
) -> None:
    bench = make(waits=waits)
    bench.put(*texts(3))
    wait_until(lambda: len(bench.out) == 3)
    bench.store.full = True
    if waits:
        refusal(bench)
    else:
        bench.put(text_event("received"))
    wait_until(lambda: lines(caplog, "ERROR"))
    bench.settle(*bench.out)
    wait_until(lambda: bench.places() == {}, deadline_s=4)
    assert lines(caplog, "INFO") == []  # what goes through does not show that it takes events again
    bench.store.full = False

    def is_taken() -> bool:
        try:
            bench.put(text_event("after"))
        except StoreUnavailable:
            return False
        return True

    wait_until(is_taken)
    wait_until(lambda: "after" in bench.places())
    wait_until(lambda: len(lines(caplog, "INFO")) == 1)
    assert len(lines(caplog, "ERROR")) == 1
    assert waits or "received" in bench.places()


class ReluctantStore(WatchedStore):
    """Opens, and begins no life the first time."""

    def __init__(self, store: SqliteStore, refusal: StoreDown) -> None:
        super().__init__(store)
        self._refusals = [refusal]

    def enlist(self) -> int:
        if self._refusals:
            raise self._refusals.pop()
        return super().enlist()


def test_a_store_that_goes_away_during_the_start_is_waited_for_and_one_that_refuses_is_not(
    tmp_path: Path, call: Call
) -> None:
    def made(refusal: StoreDown) -> DurableInbox:
        store = ReluctantStore(SqliteStore(tmp_path / "inbox.sqlite3", POLICY), refusal)
        return DurableInbox(store, call, 100, 1_000_000)

    inbox = made(StoreRefused("GRANT more"))
    with pytest.raises(StartError, match=r"inbox\.sqlite3 cannot be used as inbox: GRANT more"):
        inbox.start(lambda entries: None, lambda: 0, lambda: ())
    inbox = made(StoreDown("it is away"))
    inbox.start(lambda entries: None, lambda: 0, lambda: ())
    try:
        inbox.put([text_event("later")], 1)
        assert inbox.statistics().accepted == 1
    finally:
        inbox.stop(time.monotonic() + 5)


def test_a_mistake_in_the_store_is_logged_and_not_the_end(make: MakeBench, caplog: pytest.LogCaptureFixture) -> None:
    bench = make()
    bench.put(text_event("before"))
    wait_until(lambda: bench.out)
    bench.store.error = LookupError("a mistake")
    refusal(bench)
    bench.settle_all()
    bench.store.error = None
    wait_until(lambda: bench.inbox.statistics().unsaved == 0)  # written down, and known to be
    assert bench.records() == []
    bench.put(text_event("after"))
    wait_until(lambda: bench.texts() == ["before", "after"])
    assert "A mistake in gbot or its database" in caplog.text
    assert "LookupError: a mistake" in caplog.text


def test_events_whose_commit_was_not_confirmed_run_once(make: MakeBench, caplog: pytest.LogCaptureFixture) -> None:
    bench = make()
    bench.put(text_event("known"))
    wait_until(lambda: bench.out)
    bench.store.lose_answers = True
    refusal(bench, *texts(3))
    wait_until(lambda: len(bench.out) == 4)
    assert sorted(bench.texts()) == ["0", "1", "2", "known"]
    bench.settle_all()
    wait_until(lambda: bench.records() == [])
    assert len(bench.out) == 4
    assert bench.inbox.statistics().late == 0


def test_outcomes_whose_commit_was_not_confirmed_are_written_once(make: MakeBench) -> None:
    bench = make()
    bench.put(*texts(3))
    wait_until(lambda: len(bench.out) == 3)
    bench.store.lose_answers = True
    bench.settle(*bench.out, outcome=DEAD)
    wait_until(lambda: "orphans" in bench.store.calls)
    wait_until(lambda: bench.inbox.statistics().late == 3)  # the second time they are gone
    assert [(record.place, record.attempts) for record in bench.records()] == [(Place.DEAD, 1)] * 3
    assert len(bench.out) == 3
    wait_until(lambda: bench.inbox.statistics().held == 3)


def test_retries_whose_commit_was_not_confirmed_run_once(make: MakeBench) -> None:
    bench = make()
    wait_until(lambda: bench.store.turns)  # until then older entries may be ready
    bench.put(text_event("x", "anna"), text_event("y", "anna"))
    wait_until(lambda: len(bench.out) == 2)
    bench.store.lose_answers = True
    bench.settle(bench.out[0], outcome=Outcome(State.RETRY, "it failed", 0.0))
    bench.settle(bench.out[1], outcome=Outcome(State.RELEASED))
    wait_until(lambda: len(bench.out) == 3)
    assert (bench.texts()[2], bench.out[2].attempts) == ("x", 1)
    bench.settle(bench.out[2])
    wait_until(lambda: bench.texts()[3:] == ["y"])
    bench.settle(bench.out[3])
    wait_until(lambda: bench.records() == [])
    assert len(bench.out) == 4


def test_a_worker_that_was_thought_gone_begins_a_new_life(make: MakeBench, caplog: pytest.LogCaptureFixture) -> None:
    bench = make()
    bench.put(*texts(3))
    wait_until(lambda: len(bench.out) == 3)
    [life] = {entry.claim for entry in bench.out}
    bench.other.leave(life)  # as another worker does with one that it thinks gone
    wait_until(lambda: len(bench.out) == 6)
    assert sorted(bench.texts()) == ["0", "0", "1", "1", "2", "2"]
    assert {entry.claim for entry in bench.out[3:]} != {life}
    assert "Another worker thought this one gone" in caplog.text
    bench.settle(*bench.out[:3])  # of the first life: they have been taken away
    wait_until(lambda: bench.inbox.statistics().late == 3)
    assert set(bench.places().values()) == {Place.RUNNING}
    assert 0 <= bench.inbox.statistics().held <= 3
    wait_until(lambda: bench.inbox.statistics().held == 3)
    bench.settle(*bench.out[3:])
    wait_until(lambda: bench.records() == [])
    assert len(bench.out) == 6
    wait_until(lambda: bench.inbox.statistics().held == 0)


def test_a_delivery_that_meets_the_end_of_a_life_is_stored_all_the_same(make: MakeBench) -> None:
    bench = make()
    bench.put(text_event("x"))
    wait_until(lambda: bench.out)
    bench.other.leave(bench.out[0].claim)
    bench.put(text_event("y"))
    wait_until(lambda: sorted(bench.texts()) == ["x", "x", "y"])


def test_late_outcomes_of_every_kind_leave_the_count_right(make: MakeBench) -> None:
    bench = make()
    bench.put(*texts(4))
    wait_until(lambda: len(bench.out) == 4)
    bench.other.leave(bench.out[0].claim)
    wait_until(lambda: len(bench.out) == 8)
    kinds = [DONE, DEAD, Outcome(State.RETRY, "it failed", 0.0), Outcome(State.RELEASED)]
    for entry, outcome in zip(bench.out[:4], kinds, strict=True):
        bench.settle(entry, outcome=outcome)
    wait_until(lambda: bench.inbox.statistics().late == 4)
    assert 0 <= bench.inbox.statistics().held <= 4
    wait_until(lambda: bench.inbox.statistics().held == 4)
    bench.settle(*bench.out[4:])
    wait_until(lambda: bench.records() == [])
    assert len(bench.out) == 8


def test_a_later_attempt_whose_hand_over_was_not_confirmed_runs(make: MakeBench) -> None:
    """Its greenlet, at rest since the first attempt, must not pass for one that runs it."""
    bench = make(pool=0)
    attempts: list[int] = []
    bot = Bot()

    @bot.default
    def handle(ctx: Context) -> None:
        attempts.append(ctx.attempt)
        if ctx.attempt == 1:
            bench.store.lose_claims = True
            raise ValueError

    execution = Execution(bot, bench.inbox, {"plain": services(Outbox())}, 0, 3, delay=lambda failures: 0.01)
    dispatcher = Dispatcher(execution, 4)
    bench.connect(dispatcher)
    bench.put(text_event("x", "anna"))
    wait_until(lambda: attempts == [1, 2])
    wait_until(lambda: bench.records() == [])
    dispatcher.drain(time.monotonic())


class UnreliableStore(WatchedStore):
    """Fails now and then, before or after it has done what it was asked for, or because its life was ended."""

    def __init__(self, store: SqliteStore, seed: int, other: SqliteStore | None) -> None:
        super().__init__(store)
        self._chance = random.Random(seed)
        self._other = other  # by which lives are ended
        self.failures_left = 7

    def turn(self, life: int, work: Work) -> Turned:
        fate = self._chance.random() if self.failures_left else 1.0
        self.failures_left -= fate < 0.3
        if fate < 0.1:
            raise StoreDown("before it was done")
        if fate < 0.2:
            self.lose_answers = True
        elif fate < 0.25 and self._other is not None:
            self._other.leave(life)
        elif fate < 0.3 and work.events:
            raise StoreFull("no room")
        return super().turn(life, work)


@pytest.mark.parametrize("lives_end", [False, True], ids=["the store fails", "lives end too"])
@pytest.mark.parametrize("seed", [1, 2])
def test_whatever_fails_every_event_runs_and_ends(tmp_path: Path, seed: int, lives_end: bool) -> None:
    path = tmp_path / "inbox.sqlite3"
    other, call = SqliteStore(path, POLICY), InOneThread()
    store = UnreliableStore(SqliteStore(path, POLICY), seed, other if lives_end else None)
    runs: dict[str, list[int]] = defaultdict(list)
    order: list[int] = []
    bot = Bot()

    @bot.default
    def handle(ctx: Context) -> None:
        runs[ctx.text].append(ctx.attempt)
        order.append(int(ctx.text) if ctx.event.user_id == "anna" else -1)
        gevent.sleep(0.002)
        if int(ctx.text) % 7 == 0 and ctx.attempt == 1:
            raise ValueError

    inbox = DurableInbox(store, call, 1000, 100_000)
    execution = Execution(bot, inbox, {"plain": services(Outbox())}, 0, 3, delay=lambda failures: 0.02)
    dispatcher = Dispatcher(execution, 4)
    inbox.start(dispatcher.submit, dispatcher.room, dispatcher.in_hand)

    def deliver(number: int) -> None:
        """As a platform does it: send it again until it is taken."""
        anna = Conversation("user", "anna") if number % 2 else None
        given = event("message.text", text=str(number), id=str(number), conversation=anna, user_id=anna and anna.id)
        while True:
            try:
                return inbox.put([given], 10)
            except StoreUnavailable:
                gevent.sleep(0.05)

    for number in range(60):
        deliver(number) if number % 2 else gevent.spawn(deliver, number)
    desk = SqlDesk(other)
    wait_until(lambda: len(runs) == 60 and desk.records(list(Place), 0, 100) == [], deadline_s=30)
    dispatcher.drain(time.monotonic() + 5, give_back=True)
    assert inbox.stop(time.monotonic() + 5) == 0
    call(store.close)
    other.close()
    expected = {str(number): [1, 2] if number % 7 == 0 else [1] for number in range(60)}
    if lives_end:
        assert {text: sorted(set(attempts)) for text, attempts in runs.items()} == expected
    else:
        assert runs == expected
        annas = [number for number in order if number >= 0]
        assert annas == sorted(annas)


# ---- ack received


def test_with_ack_received_put_returns_before_anything_is_stored(make: MakeBench, call: Call) -> None:
    bench = make(waits=False, call=call)
    wait_until(lambda: "look" in bench.store.calls)
    bench.store.hang = hang = Hang(call)
    started = time.monotonic()
    bench.put(*texts(3))
    assert time.monotonic() - started < 0.5
    assert bench.places() == {}
    bench.store.hang = None
    hang.over()
    wait_until(lambda: bench.texts() == ["0", "1", "2"])


def test_with_ack_received_what_was_taken_is_stored_when_the_store_is_back(make: MakeBench) -> None:
    bench = make(waits=False)
    wait_until(lambda: "look" in bench.store.calls)
    bench.store.error = StoreDown("no connection")
    bench.put(*texts(2))
    bench.put(text_event("2"))
    wait_until(lambda: bench.store.calls[-3:].count("turn") + bench.store.calls[-3:].count("orphans"))
    gevent.sleep(PUT_TIMEOUT_S + 0.3)  # nobody waits, so nothing expires
    refusal(bench)  # but nothing more is taken while it is known to be down
    bench.store.error = None
    wait_until(lambda: bench.texts() == ["0", "1", "2"])
    statistics = bench.inbox.statistics()
    assert (statistics.accepted, statistics.refused) == (3, 1)


# ---- stopping


def test_a_stop_writes_down_what_was_settled_and_gives_the_rest_back(make: MakeBench, call: Call) -> None:
    bench = make(call=call)
    bench.put(*texts(10))
    wait_until(lambda: len(bench.out) == 10)
    bench.settle(*bench.out[:5])
    assert bench.stop() == 0
    assert bench.places() == dict.fromkeys(map(str, range(5, 10)), Place.READY)
    assert bench.desk.counts().workers == 0
    assert bench.stop() == 0  # a second time does no harm
    refusal(bench)


def test_nothing_is_handed_out_after_a_stop(make: MakeBench) -> None:
    bench = make(pool=1)
    bench.put(*texts(3))
    wait_until(lambda: len(bench.out) == 1)
    bench.pool = 0  # as the dispatcher has it once it drains
    bench.settle_all()
    assert bench.stop() == 0
    assert len(bench.out) == 1
    assert bench.places() == {"1": Place.READY, "2": Place.READY}


def test_a_stop_while_the_store_is_down_ends_by_its_deadline(make: MakeBench, call: Call) -> None:
    bench = make(call=call)
    bench.put(*texts(10))
    wait_until(lambda: len(bench.out) == 10)
    bench.store.error = StoreDown("no connection")
    bench.settle(*bench.out[:7])
    started = time.monotonic()
    assert bench.stop(0.5) == 7
    assert 0.4 < time.monotonic() - started < 3
    bench.store.error = None
    assert len(bench.records()) == 10


def test_a_stop_while_the_store_hangs_ends_by_its_deadline(make: MakeBench, call: Call) -> None:
    bench = make(call=call)
    bench.put(*texts(3))
    wait_until(lambda: len(bench.out) == 3)
    bench.store.hang = hang = Hang(call)
    bench.settle(bench.out[0])
    wait_until(lambda: hang.entered)
    bench.settle(bench.out[1])
    started = time.monotonic()
    assert bench.stop(0.3) == 2
    assert time.monotonic() - started < 3
    bench.store.hang = None
    hang.over()


def test_a_stop_waits_for_a_store_that_comes_back_in_time(make: MakeBench) -> None:
    bench = make()
    bench.put(*texts(3))
    wait_until(lambda: len(bench.out) == 3)
    bench.store.error = StoreDown("no connection")
    bench.settle_all()
    stopping = gevent.spawn(bench.stop, 10)
    gevent.sleep(0.3)
    assert not stopping.ready()
    bench.store.error = None
    assert stopping.get(timeout=10) == 0
    assert bench.records() == []


@pytest.mark.parametrize("failure", ["hangs", "is down"])
def test_requests_that_wait_while_the_server_stops_get_an_answer(make: MakeBench, call: Call, failure: str) -> None:
    bench = make(call=call)
    wait_until(lambda: "look" in bench.store.calls)
    hang = Hang(call)
    bench.store.hang = hang
    putters = [gevent.spawn(refusal, bench, given) for given in texts(2)]
    wait_until(lambda: hang.entered)
    putters += [gevent.spawn(refusal, bench, given) for given in texts(2, start=2)]
    gevent.sleep(0)
    if failure == "is down":
        bench.store.error = StoreDown("no connection")
        bench.store.hang = None
        hang.over()
    bench.stop(0.2)
    gevent.joinall(putters, timeout=3, raise_error=True)
    bench.store.hang = None
    hang.over()


def test_requests_that_wait_when_a_stop_begins_are_stored_and_answered(make: MakeBench, call: Call) -> None:
    bench = make(call=call)
    wait_until(lambda: "look" in bench.store.calls)
    bench.store.hang = hang = Hang(call)
    putter = gevent.spawn(bench.put, *texts(2))
    wait_until(lambda: hang.entered)
    second = gevent.spawn(bench.put, *texts(2, start=2))
    gevent.sleep(0)
    bench.pool = 0
    stopping = gevent.spawn(bench.stop, 5)
    gevent.sleep(0.05)
    bench.store.hang = None
    hang.over()
    assert stopping.get(timeout=5) == 0
    gevent.joinall([putter, second], timeout=3, raise_error=True)
    assert set(bench.places().values()) == {Place.READY}
    assert len(bench.records()) == 4


def test_a_request_that_is_killed_while_it_waits_harms_nobody(make: MakeBench, call: Call) -> None:
    bench = make(call=call)
    wait_until(lambda: "look" in bench.store.calls)
    bench.store.hang = hang = Hang(call)
    putters = [gevent.spawn(bench.put, given) for given in texts(3)]
    wait_until(lambda: hang.entered)
    putters[1].kill()
    bench.store.hang = None
    hang.over()
    gevent.joinall([putters[0], putters[2]], timeout=5, raise_error=True)
    wait_until(lambda: sorted(bench.texts()) == ["0", "1", "2"])
    bench.settle_all()
    wait_until(lambda: bench.records() == [])


# ---- waiting without polling


def test_an_inbox_with_nothing_to_do_asks_about_once_a_second(make: MakeBench) -> None:
    idle, direct, full, resting = benches = [
        make(file="idle"),
        make(file="direct", call=directly),
        make(file="full", pool=1),  # with a backlog, and no room for it
        make(file="resting"),  # with an entry that waits for its next attempt
    ]
    for bench in benches:
        bench.put(*texts(3))
        wait_until(lambda bench=bench: len(bench.out) == min(bench.pool, 3))
    idle.settle_all()
    direct.settle_all()
    resting.settle(resting.out[0], outcome=Outcome(State.RETRY, "it failed", 60.0))
    wait_until(lambda: idle.records() == direct.records() == [])
    gevent.sleep(0.2)
    before = [len(bench.store.calls) for bench in benches]
    gevent.sleep(3)
    for bench, count in zip(benches, before, strict=True):
        asked = bench.store.calls[count:]
        assert 1 <= len(asked) <= 5
        assert set(asked) == {"look"}
    assert len(full.out) == 1


def test_an_inbox_whose_store_is_down_tries_a_few_times_a_second(make: MakeBench) -> None:
    bench = make()
    bench.put(text_event("x"))
    wait_until(lambda: bench.out)
    bench.store.error = StoreDown("no connection")
    bench.settle_all()
    gevent.sleep(0.1)
    before = len(bench.store.calls)
    gevent.sleep(1)
    assert 1 <= len(bench.store.calls) - before <= 10


def test_a_retry_that_is_due_soon_does_not_wait_for_the_next_look(make: MakeBench) -> None:
    bench = make()
    bench.put(text_event("x"))
    for attempts in range(1, 6):
        wait_until(lambda attempts=attempts: len(bench.out) == attempts)
        assert bench.out[-1].attempts == attempts - 1
        bench.settle(bench.out[-1], outcome=Outcome(State.RETRY, "it failed", 0.01))
    started = time.monotonic()
    wait_until(lambda: len(bench.out) == 6)
    assert time.monotonic() - started < 5


def test_what_another_worker_leaves_is_found(make: MakeBench) -> None:
    bench = make()
    life = bench.other.enlist()
    work = Work(time.time_ns() // 1_000_000, [], texts(3), 0, 0)
    assert bench.other.turn(life, work).stored == 3
    wait_until(lambda: len(bench.out) == 3)
    bench.other.leave(life)


def test_debug_lines_are_rare(make: MakeBench, caplog: pytest.LogCaptureFixture) -> None:
    """A log that grows with the load would fill a disk."""
    with caplog.at_level(logging.DEBUG):
        bench = make()
        bench.put(*texts(100))
        wait_until(lambda: len(bench.out) == 100)
        bench.settle_all()
        wait_until(lambda: bench.records() == [])
    assert len(caplog.records) < 10


# ---- users and states


ANNA = Conversation("user", "anna")
FOR_EVER_MS = 10**15


def changing(document: str | None, conversation: Conversation = ANNA) -> Outcome:
    return Outcome(State.DONE, changes=(StateChange("plain", conversation, document, FOR_EVER_MS),))


def unavailable(ask: Callable[[], object]) -> DirectoryUnavailable:
    with pytest.raises(DirectoryUnavailable) as raised:
        ask()
    return raised.value


def test_a_settled_state_is_seen_while_the_store_is_down_and_written_when_it_is_back(
    make: MakeBench, call: Call
) -> None:
    bench = make(call=call)
    directory = bench.inbox.directory
    bench.put(*texts(3))
    wait_until(lambda: len(bench.out) == 3)
    bench.store.error = StoreDown("no connection")
    first, second, third = bench.out
    bench.settle(first, outcome=changing("1"))
    assert directory.state("plain", ANNA) == "1"
    bench.settle(second, outcome=changing("2"))
    forgotten = Outcome(State.DONE, changes=(UserForgotten("plain", "ben"),))
    bench.settle(third, outcome=forgotten)
    assert directory.state("plain", ANNA) == "2"
    assert directory.state("plain", Conversation("user", "ben")) is None
    assert bench.inbox.statistics().unsaved == 3
    bench.store.error = None
    wait_until(lambda: bench.inbox.statistics().unsaved == 0)
    assert directory.state("plain", ANNA) == "2"
    assert bench.other.states(["plain user anna"], 0) == {"plain user anna": "2"}


def test_what_a_life_that_has_ended_changes_is_never_seen(make: MakeBench) -> None:
    """The store will refuse it. Else the second run of the same event would count it twice."""
    bench = make()
    bench.put(text_event("x", "anna"))
    wait_until(lambda: len(bench.out) == 1)
    bench.other.leave(bench.out[0].claim)  # as another worker does with one that it thinks gone
    wait_until(lambda: len(bench.out) == 2)
    bench.store.error = StoreDown("no connection")
    bench.settle(bench.out[0], outcome=changing("of the first life"))
    unavailable(lambda: bench.inbox.directory.state("plain", ANNA))  # what is on its way would be told
    bench.store.error = None
    wait_until(lambda: bench.inbox.statistics().late == 1)
    bench.settle(bench.out[1], outcome=changing("of the second"))
    assert bench.inbox.directory.state("plain", ANNA) == "of the second"


def test_what_was_written_is_asked_of_the_store_again(make: MakeBench) -> None:
    """What lies over the store goes with the turn that has written it: another worker may change it then."""
    bench = make()
    bench.put(text_event("1", "anna"))
    bench.settle(*bench.out, outcome=changing("1"))
    wait_until(lambda: bench.inbox.statistics().unsaved == 0)
    life = bench.other.enlist()
    other = (StateChange("plain", ANNA, "2", FOR_EVER_MS), UserGone("plain", "anna", True, 1))
    bench.other.turn(life, Work(0, [], [], 0, 0, changes=other))
    assert bench.inbox.directory.state("plain", ANNA) == "2"
    assert bench.inbox.directory.users("plain", ["anna"])["anna"].gone


def test_what_is_settled_while_a_question_is_under_way_is_in_the_answer(make: MakeBench, call: Call) -> None:
    bench = make(call=call)
    directory = bench.inbox.directory
    directory.save([UserGone("plain", "anna", True, 1000), ProfileSeen("plain", "ben", Profile("Ben"), 1000)])
    bench.put(*texts(2))
    wait_until(lambda: len(bench.out) == 2)
    users = (
        UserGone("plain", "anna", False, 2000),
        UserForgotten("plain", "ben"),
        ProfileSeen("plain", "carl", Profile("Carl"), 1),
    )
    known = {"anna": User("plain", "anna", False, 2000), "carl": User("plain", "carl", False, 0, Profile("Carl"), 1)}
    steps: list[tuple[Callable[[], object], object, Outcome]] = [
        (lambda: directory.users("plain", ["anna", "ben", "carl"]), known, Outcome(State.DONE, changes=users)),
        (lambda: directory.state("plain", ANNA), "1", changing("1")),
    ]
    for entry, (question, answer, outcome) in zip(list(bench.out), steps, strict=True):
        hang = bench.store.hang = Hang(call)
        asking = gevent.spawn(question)
        wait_until(lambda hang=hang: hang.entered)
        bench.settle(entry, outcome=outcome)
        bench.store.hang = None
        hang.over()
        assert asking.get(timeout=5) == answer


def test_what_was_forgotten_and_written_may_be_known_again(make: MakeBench) -> None:
    bench = make()
    bench.put(*texts(1))
    bench.settle(*bench.out, outcome=Outcome(State.DONE, changes=(UserForgotten("plain", "anna"),)))
    wait_until(lambda: bench.inbox.statistics().unsaved == 0)
    bench.inbox.directory.save([UserGone("plain", "anna", True, 1), StateChange("plain", ANNA, "1", FOR_EVER_MS)])
    assert bench.inbox.directory.users("plain", ["anna"])["anna"].gone
    assert bench.inbox.directory.state("plain", ANNA) == "1"


def test_without_the_store_nobody_waits_for_an_answer_longer_than_a_request_does(make: MakeBench, call: Call) -> None:
    bench = make(call=call)
    directory = bench.inbox.directory
    bench.store.error = StoreDown("no connection")
    asks: list[Callable[[], object]] = [
        lambda: directory.state("plain", ANNA),
        lambda: directory.users("plain", ["anna"]),
        lambda: directory.save([UserGone("plain", "anna", True, 1)]),
    ]
    started = time.monotonic()
    asking = [gevent.spawn(unavailable, ask) for ask in asks]
    gevent.joinall(asking, raise_error=True)
    assert time.monotonic() - started < PUT_TIMEOUT_S + 1
    assert all(greenlet.value.after_s > 0 for greenlet in asking)
    bench.store.error = None
    wait_until(lambda: bench.store.calls[-1] == "look")
    assert directory.state("plain", ANNA) is None
    directory.save([UserGone("plain", "anna", True, 1)])
    assert directory.users("plain", ["anna"])["anna"].gone


def test_a_store_that_is_back_in_time_answers(make: MakeBench) -> None:
    bench = make()
    bench.inbox.directory.save([StateChange("plain", ANNA, "1", FOR_EVER_MS)])
    bench.store.error = StoreDown("the connection broke")
    asking = gevent.spawn(bench.inbox.directory.state, "plain", ANNA)
    failures = len(bench.store.calls) + 2
    wait_until(lambda: len(bench.store.calls) >= failures)
    bench.store.error = None
    assert asking.get(timeout=5) == "1"


def test_while_the_store_hangs_nobody_waits_for_an_answer_longer_than_a_request_does(
    make: MakeBench, call: Call
) -> None:
    bench = make(call=call)
    bench.inbox.directory.users("plain", ["anna"])
    bench.store.hang = Hang(call)
    started = time.monotonic()
    unavailable(lambda: bench.inbox.directory.state("plain", ANNA))
    assert time.monotonic() - started < PUT_TIMEOUT_S + 1
    bench.store.hang.over()
    bench.store.hang = None
    assert bench.inbox.directory.state("plain", ANNA) is None


def test_many_questions_of_one_moment_are_few_queries(make: MakeBench) -> None:
    bench = make()
    directory = bench.inbox.directory
    rooms = [Conversation("room", str(number)) for number in range(3 * STATES_AT_ONCE)]
    directory.save([StateChange("plain", room, room.id, FOR_EVER_MS) for room in rooms])
    del bench.store.calls[:]
    states = [gevent.spawn(directory.state, "plain", room) for room in rooms]
    users = [gevent.spawn(directory.users, "plain", [room.id]) for room in rooms]
    gevent.joinall(states + users, raise_error=True)
    assert [greenlet.value for greenlet in states] == [room.id for room in rooms]
    assert bench.store.asked == [STATES_AT_ONCE] * 3
    assert bench.store.calls.count("users") <= 6


def test_many_saves_of_one_moment_share_a_turn(make: MakeBench) -> None:
    bench = make()
    bench.inbox.directory.save([UserGone("plain", "first", True, 1)])
    turns = len(bench.store.turns)
    saving = [gevent.spawn(bench.inbox.directory.save, [UserGone("plain", str(n), True, 1)]) for n in range(100)]
    gevent.joinall(saving, raise_error=True)
    assert len(bench.store.turns) - turns <= 3
    assert len(bench.other.users([("plain", str(number)) for number in range(100)])) == 100


def test_questions_do_not_wait_for_the_next_look_and_leave_the_store_alone_afterwards(make: MakeBench) -> None:
    bench = make()
    wait_until(lambda: "turn" in bench.store.calls)
    del bench.store.calls[:]
    for _ in range(20):
        bench.inbox.directory.state("plain", ANNA)
    assert bench.store.calls.count("states") == 20
    assert bench.store.calls.count("turn") == 0


def test_whoever_stops_waiting_leaves_nothing_behind(make: MakeBench) -> None:
    bench = make()
    bench.inbox.directory.state("plain", ANNA)
    bench.store.error = StoreDown("no connection")
    asking = [gevent.spawn(bench.inbox.directory.state, "plain", Conversation("room", str(n))) for n in range(10)]
    tries = len(bench.store.calls) + 2
    wait_until(lambda: len(bench.store.calls) >= tries)
    gevent.killall(asking)
    bench.store.error = None
    wait_until(lambda: bench.store.calls[-1] == "look")
    assert bench.inbox.directory.state("plain", ANNA) is None
    assert bench.store.asked[-1] == 1


def test_what_was_saved_in_a_turn_that_failed_is_not_called_stored(make: MakeBench) -> None:
    bench = make()
    bench.put(*texts(1))
    bench.store.poison = "no"
    saving = gevent.spawn(unavailable, lambda: bench.inbox.directory.save([UserGone("plain", "anna", True, 1)]))
    putting = [gevent.spawn(bench.inbox.put, [text_event(text)], 1) for text in ("no", "yes")]
    gevent.joinall([saving, *putting])
    assert saving.get().after_s > 0
    assert isinstance(putting[0].exception, StoreUnavailable)
    assert "yes" in bench.places()
    assert bench.inbox.directory.users("plain", ["anna"]) == {}


def test_a_question_that_the_store_cannot_take_is_not_put_to_it_again(make: MakeBench) -> None:
    bench = make()
    bench.store.mistake = ZeroDivisionError("a mistake")
    unavailable(lambda: bench.inbox.directory.state("plain", ANNA))
    assert bench.store.asked == [1]
    bench.put_when_possible(text_event("after"))
    assert bench.store.asked == [1]
    assert "after" in bench.places()


def test_a_stop_ends_the_waiting(make: MakeBench) -> None:
    bench = make()
    bench.inbox.directory.state("plain", ANNA)
    bench.store.error = StoreDown("no connection")
    asking = gevent.spawn(unavailable, lambda: bench.inbox.directory.state("plain", ANNA))
    tries = len(bench.store.calls) + 1
    wait_until(lambda: len(bench.store.calls) >= tries)
    bench.stop(0.1)
    asking.get(timeout=0.5)
    with gevent.Timeout(0.5):
        unavailable(lambda: bench.inbox.directory.users("plain", ["anna"]))


def test_changes_whose_commit_was_not_confirmed_are_written_once(make: MakeBench) -> None:
    bench = make()
    bench.put(text_event("1", "anna"))
    bench.store.lose_answers = True
    bench.settle(*bench.out, outcome=changing("1"))
    wait_until(lambda: not bench.store.lose_answers)
    life = bench.other.enlist()
    bench.other.turn(life, Work(0, [], [], 0, 0, changes=[StateChange("plain", ANNA, "2", FOR_EVER_MS)]))
    wait_until(lambda: bench.inbox.statistics().late == 1)
    assert bench.inbox.directory.state("plain", ANNA) == "2"
