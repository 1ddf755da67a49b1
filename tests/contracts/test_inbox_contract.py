"""What every inbox promises a worker (gbot/inbox.py), run on each of them."""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import gevent
import pytest

from gbot import Bot, Context, Conversation, Event
from gbot.dispatcher import Dispatcher
from gbot.errors import DeliveryTooLarge, Drop, InboxFull, Retry
from gbot.execution import Execution
from gbot.inbox import Outcome, State
from tests.contracts.inboxes import Maker
from tests.rig import Outbox, event, services, text_event, wait_until

DONE = Outcome(State.DONE)
RELEASED = Outcome(State.RELEASED)
RETRY_AT_ONCE = Outcome(State.RETRY, "it failed", 0.0)


def texts(count: int, start: int = 0) -> list[Event]:
    return [text_event(str(number)) for number in range(start, start + count)]


# ---- handing out


def test_events_are_handed_out_in_their_order(make: Maker) -> None:
    bench = make()
    before_ms = time.time_ns() // 1_000_000
    first, second = bench.take(*texts(3)), bench.take(*texts(2, start=3))
    after_ms = time.time_ns() // 1_000_000
    assert [entry.event for entry in [*first, *second]] == texts(5)
    numbers = [entry.number for entry in bench.out]
    assert numbers == sorted(set(numbers))
    assert {entry.attempts for entry in bench.out} == {0}
    assert all(before_ms <= entry.received_ms <= after_ms for entry in bench.out)


def test_a_delivery_without_events_is_nothing(make: Maker) -> None:
    bench = make()
    bench.put(body_bytes=14)
    statistics = bench.inbox.statistics()
    assert (bench.out, statistics.held, statistics.accepted) == ([], 0, 0)


def test_its_place_says_where_it_is(make: Maker) -> None:
    assert make().inbox.place.startswith(("memory:", "sqlite:///", "mysql://"))


# ---- settling


@pytest.mark.parametrize("state", [State.DONE, State.UNHANDLED, State.DROPPED])
def test_what_has_ended_is_gone(make: Maker, state: State) -> None:
    bench = make()
    entries = bench.take(*texts(3), text_event("anna's", "anna"))
    bench.settle(Outcome(state, "a reason"), *entries)
    wait_until(lambda: bench.held() == 0)
    assert bench.inbox.statistics().settled[state] == 4
    bench.take(text_event("anna's next", "anna"))
    assert len(bench.out) == 5


def test_a_dead_entry_does_not_run_again_and_lets_its_conversation_go_on(make: Maker) -> None:
    bench = make()
    [first] = bench.take(text_event("first", "anna"))
    bench.put(text_event("second", "anna"))
    bench.settle(Outcome(State.DEAD, "it failed for good"), first)
    wait_until(lambda: bench.texts() == ["first", "second"])
    bench.settle(DONE, bench.out[1])
    wait_until(lambda: bench.held() == (1 if bench.inbox.keeps else 0))
    assert bench.inbox.statistics().settled[State.DEAD] == 1


def test_what_is_to_be_tried_again_comes_again_with_one_attempt_more(make: Maker) -> None:
    bench = make()
    [entry] = bench.take(text_event("x", "anna"))
    for attempts in (1, 2, 3):
        bench.settle(RETRY_AT_ONCE, bench.out[-1])
        wait_until(lambda attempts=attempts: len(bench.out) == attempts + 1)
        again = bench.out[-1]
        assert (again.number, again.attempts, again.received_ms) == (entry.number, attempts, entry.received_ms)
        assert again.event == entry.event
    assert bench.held() == 1
    bench.settle(DONE, bench.out[-1])
    wait_until(lambda: bench.held() == 0)
    assert bench.inbox.statistics().settled[State.RETRY] == 3


def test_what_is_to_be_tried_again_waits_for_its_time(make: Maker) -> None:
    bench = make()
    [entry] = bench.take(text_event("x"))
    started = time.monotonic()
    bench.settle(Outcome(State.RETRY, "it failed", 0.4), entry)
    wait_until(lambda: len(bench.out) == 2)
    assert time.monotonic() - started >= 0.39


REASONS = ["a\0b", "\udcff\ud800", "x" * 100_000, "名前 🐈", 'it\'s "100 %s" {} ? \\']


@pytest.mark.parametrize("state", [State.RETRY, State.DEAD, State.DROPPED])
def test_any_text_may_be_the_reason(make_on_disk: Maker, state: State) -> None:
    bench = make_on_disk()
    entries = bench.take(*texts(len(REASONS)))
    for entry, reason in zip(entries, REASONS, strict=True):
        bench.settle(Outcome(state, reason, 60.0), entry)
        bench.settle(DONE, *bench.take(text_event("y")))
    wait_until(lambda: bench.held() == (0 if state is State.DROPPED else len(REASONS)))
    assert bench.inbox.statistics().late == 0
    assert bench.stop() == 0


def test_what_is_released_comes_again_where_the_inbox_keeps_it(make: Maker) -> None:
    bench = make()
    first, second = bench.take(*texts(2))
    bench.settle(RELEASED, first)
    if bench.inbox.keeps:
        wait_until(lambda: len(bench.out) == 3)
        assert (bench.out[2].number, bench.out[2].attempts) == (first.number, 0)
        bench.settle(DONE, bench.out[2])
    bench.settle(DONE, second)
    wait_until(lambda: bench.held() == 0)
    assert bench.inbox.statistics().settled[State.RELEASED] == 1


def test_what_was_not_settled_at_a_stop_is_run_by_the_next_worker(make_on_disk: Maker) -> None:
    first = make_on_disk(pool=3)
    first.take(text_event("a1", "anna"), *texts(2))
    first.put(text_event("a2", "anna"), text_event("a3", "anna"), *texts(3, start=2))
    first.pool = 0
    first.settle(RELEASED, first.out[0])
    first.settle(DONE, first.out[1])
    assert first.stop() == 0
    second = make_on_disk()
    wait_until(lambda: len(second.out) == 5)
    assert [text for text in second.texts() if not text.startswith("a")] == ["1", "2", "3", "4"]
    for count in (6, 7):
        second.settle(DONE, *second.in_hand)
        wait_until(lambda count=count: len(second.out) == count)
    assert [text for text in second.texts() if text.startswith("a")] == ["a1", "a2", "a3"]
    second.settle(DONE, *second.in_hand)
    wait_until(lambda: second.held() == 0)


def test_two_workers_share_what_is_there_and_run_nothing_twice(make_on_disk: Maker) -> None:
    first, second = benches = make_on_disk(pool=5), make_on_disk(pool=5)
    given = [text_event(str(number), random.Random(number).choice([None, *"abc"])) for number in range(80)]
    for start in range(0, 80, 10):
        benches[start // 10 % 2].put(*given[start : start + 10])
    deadline = time.monotonic() + 20
    while len(first.out) + len(second.out) < 80:
        assert time.monotonic() < deadline
        for bench in benches:
            bench.settle(DONE, *bench.in_hand)
        gevent.sleep(0.01)
    for bench in benches:
        bench.settle(DONE, *bench.in_hand)
        wait_until(lambda bench=bench: bench.held() == 0)
    assert sorted(map(int, first.texts() + second.texts())) == list(range(80))
    assert first.inbox.statistics().late == second.inbox.statistics().late == 0


# ---- events that come again


def test_an_id_that_comes_twice_is_stored_once(make: Maker) -> None:
    bench = make()
    bench.put(event("follow", id="1"), event("follow", id="2"), event("follow", id="1"))
    bench.put(event("follow", id="2"), event("follow", id="3"))
    wait_until(lambda: len(bench.out) == 3)
    assert [entry.event.id for entry in bench.out] == ["1", "2", "3"]
    bench.settle(DONE, *bench.out)
    wait_until(lambda: bench.held() == 0)
    bench.put(event("follow", id="1"))  # long after it was dealt with
    bench.take(event("follow", id="4"))
    assert len(bench.out) == 4
    statistics = bench.inbox.statistics()
    assert (statistics.accepted, statistics.duplicates, statistics.held) == (4, 3, 1)


def test_an_id_that_comes_fifty_times_at_once_is_stored_once(make: Maker) -> None:
    bench = make()
    putters = [
        gevent.spawn(bench.put, event("follow", id="the same"), event("follow", id=str(number))) for number in range(50)
    ]
    gevent.joinall(putters, timeout=10, raise_error=True)
    wait_until(lambda: len(bench.out) == 51)
    statistics = bench.inbox.statistics()
    assert (statistics.accepted, statistics.duplicates, statistics.held) == (51, 49, 51)


def test_an_id_that_comes_to_two_workers_is_stored_once(make_on_disk: Maker) -> None:
    first, second = make_on_disk(), make_on_disk()
    first.put(event("follow", id="1"))
    second.put(event("follow", id="1"))
    assert second.inbox.statistics().duplicates == 1


def test_events_without_an_id_are_never_the_same(make: Maker) -> None:
    bench = make()
    bench.take(event("follow"), event("follow"))
    bench.take(event("follow"))
    assert bench.inbox.statistics().duplicates == 0


IDS = ["a", "A", "a ", " a", "ａ", "á", "a\u0301", "", " ", "a\0b", "a\0c", "🐈", "🐕", "%", "'", '"', "\\"]


def test_ids_are_the_same_only_when_they_are_equal(make: Maker) -> None:
    bench = make()
    long = [*("x" * 255, "x" * 254 + "y", "🐈" * 255, "🐈" * 254 + "🐕")]
    bench.take(*(event("follow", id=id) for id in [*IDS, *long]))
    assert bench.inbox.statistics().duplicates == 0
    bench.put(*(event("follow", id=id) for id in [*IDS, *long]))
    assert bench.inbox.statistics().duplicates == len(IDS) + 4


def test_the_platform_is_a_part_of_the_id(make: Maker) -> None:
    bench = make()
    bench.take(*(Event(platform=platform, kind="follow", raw={}, id="1") for platform in ("line", "plain", "Line")))
    assert bench.inbox.statistics().duplicates == 0


def test_an_id_is_forgotten_after_the_window(make: Maker) -> None:
    bench = make(dedup_window_s=0.2)
    bench.take(event("follow", id="1"))
    gevent.sleep(0.25)
    bench.take(event("follow", id="1"))
    assert bench.inbox.statistics().duplicates == 0


def test_a_duplicate_is_no_place_in_its_conversation(make: Maker) -> None:
    bench = make()
    anna = Conversation("user", "anna")
    [first] = bench.take(event("follow", id="1", conversation=anna))
    bench.put(event("follow", id="1", conversation=anna))
    bench.settle(DONE, first)
    bench.take(event("follow", id="2", conversation=anna))
    assert [entry.event.id for entry in bench.out] == ["1", "2"]


# ---- order


def test_conversations_that_differ_a_little_are_different(make: Maker) -> None:
    bench = make()
    kinds = [Conversation("user", "x"), Conversation("group", "x"), Conversation("room", "x")]
    for one in [*kinds, *(Conversation("user", id) for id in IDS)]:
        [entry] = bench.take(event("follow", conversation=one))  # none waits for those that run already
        assert entry.event.conversation == one


@pytest.mark.parametrize("strict", [True, False], ids=["strict", "relaxed"])
@pytest.mark.parametrize("pool", [3, 1000])
def test_within_a_conversation_events_come_in_their_order(make: Maker, strict: bool, pool: int) -> None:
    chance = random.Random(pool)
    bench = make(pool=pool, strict=strict)
    given = [text_event(str(number), chance.choice([None, *"abcdef"])) for number in range(150)]
    for start in range(0, 150, 10):
        bench.put(*given[start : start + 10])
        gevent.sleep(0)
        bench.settle(DONE, *bench.in_hand[: chance.randrange(10)])
    deadline = time.monotonic() + 20
    while len(bench.out) < 150:
        assert time.monotonic() < deadline
        bench.settle(DONE, *bench.in_hand)
        gevent.sleep(0.002)
    by_user = defaultdict(list)
    for entry in bench.out:
        by_user[entry.event.user_id].append(int(entry.event.text or ""))
    assert sorted(number for numbers in by_user.values() for number in numbers) == list(range(150))
    for user, numbers in by_user.items():
        assert user is None or numbers == sorted(numbers)


ATTEMPTS_MAX = 3
ENDS = {"": State.DONE, "wait": State.DONE, "drop": State.DROPPED}


class Watch:
    """A bot whose handlers behave in each attempt as planned, and notes of what they did."""

    def __init__(self, plans: Sequence[tuple[str | None, Sequence[str]]]) -> None:
        self.plans = plans
        self.bot = Bot()
        self.bot.default(self.handle)
        self.starts: dict[str | None, list[tuple[int, int]]] = defaultdict(list)
        self.together = 0
        self._open: set[str] = set()

    def handle(self, ctx: Context) -> None:
        number, user = int(ctx.text), ctx.event.user_id
        self.starts[user].append((number, ctx.attempt))
        if user is None:
            self._behave(self.plans[number][1][ctx.attempt - 1])
            return
        self.together += user in self._open
        self._open.add(user)
        try:
            self._behave(self.plans[number][1][ctx.attempt - 1])
        finally:
            self._open.discard(user)

    def _behave(self, behaviour: str) -> None:
        if behaviour == "wait":
            gevent.sleep(0.002)
        if behaviour == "drop":
            raise Drop("as planned")
        if behaviour == "retry":
            gevent.sleep(0.001)
            raise Retry(after=0.01)
        if behaviour == "fail":
            raise ValueError

    def expected(self) -> dict[int, list[int]]:
        """The attempts that each event takes."""
        return {
            number: list(range(1, next((n for n, how in enumerate(hows, 1) if how in ENDS), ATTEMPTS_MAX) + 1))
            for number, (_, hows) in enumerate(self.plans)
        }


@pytest.mark.parametrize("strict", [True, False], ids=["strict", "relaxed"])
def test_with_the_real_dispatcher_every_event_ends_once_and_in_its_order(make: Maker, strict: bool) -> None:
    chance = random.Random(strict)
    behaviours = ["", "", "wait", "wait", "drop", "retry", "fail"]
    watch = Watch([(chance.choice([None, *"abcde"]), chance.choices(behaviours, k=ATTEMPTS_MAX)) for _ in range(60)])
    inbox = make.inbox(strict=strict)
    execution = Execution(watch.bot, inbox, {"plain": services(Outbox())}, 0, ATTEMPTS_MAX, delay=lambda failures: 0.01)
    dispatcher = Dispatcher(execution, 5, strict)
    inbox.start(dispatcher.submit, dispatcher.room, dispatcher.in_hand)
    for start in range(0, 60, 6):
        inbox.put([text_event(str(number), watch.plans[number][0]) for number in range(start, start + 6)], 1)
    runs = sum(map(len, watch.expected().values()))
    wait_until(lambda: sum(map(len, watch.starts.values())) == runs, deadline_s=30)
    dispatcher.drain(time.monotonic() + 5, give_back=inbox.keeps)
    assert inbox.stop(time.monotonic() + 5) == 0
    assert watch.together == 0
    starts = [start for starts in watch.starts.values() for start in starts]
    assert sorted(starts) == [(number, attempt) for number, runs in watch.expected().items() for attempt in runs]
    for user, order in watch.starts.items():
        firsts = [number for number, attempt in order if attempt == 1]
        assert user is None or firsts == sorted(firsts)
        assert user is None or not strict or order == sorted(order)


# ---- bounds and counts


def test_the_number_of_entries_is_bounded(make: Maker) -> None:
    bench = make(held_max=5)
    bench.take(*texts(3))
    with pytest.raises(InboxFull):
        bench.put(*texts(3))
    bench.settle(DONE, *bench.out)
    wait_until(lambda: bench.held() == 0)
    bench.take(*texts(5))
    with pytest.raises(DeliveryTooLarge):
        bench.put(*texts(6))
    statistics = bench.inbox.statistics()
    assert (statistics.accepted, statistics.refused, statistics.held) == (8, 9, 5)


def test_a_delivery_of_too_many_bytes_is_too_large(make: Maker) -> None:
    bench = make(bytes_max=1000)
    with pytest.raises(DeliveryTooLarge):
        bench.put(text_event("x"), body_bytes=1001)
    bench.put(text_event("x"), body_bytes=1000)


def test_the_statistics_add_up(make: Maker) -> None:
    chance = random.Random(1)
    bench = make(held_max=60)
    offered = 0
    outcomes = [DONE, Outcome(State.DEAD, "it failed"), Outcome(State.DROPPED), Outcome(State.UNHANDLED)]
    for _ in range(60):
        given = [event("follow", id=chance.choice([None, str(chance.randrange(60))])) for _ in range(3)]
        offered += 3
        try:
            bench.put(*given)
        except InboxFull:
            gevent.sleep(0.01)
        for entry in bench.in_hand[: chance.randrange(4)]:
            bench.settle(chance.choice(outcomes), entry)
    statistics = bench.inbox.statistics()
    assert statistics.accepted + statistics.duplicates + statistics.refused == offered
    assert statistics.duplicates > 0
    wait_until(lambda: len(bench.out) == statistics.accepted)
    bench.settle(DONE, *bench.in_hand)
    wait_until(lambda: bench.inbox.statistics().unsaved == 0)
    settled = bench.inbox.statistics().settled
    assert sum(settled.values()) == statistics.accepted
    wait_until(lambda: bench.held() == (settled[State.DEAD] if bench.inbox.keeps else 0))


# ---- what an event is


def nested(depth: int) -> Any:
    value: Any = "the bottom"
    for _ in range(depth):
        value = [value]
    return value


RAWS: list[Any] = [
    *({}, [], "", "text", 0, -1, 1.5, True, False, None, [None], {"": None}),
    *(
        2**63 - 1,
        -(2**63),
        2**64 - 1,
        2**64,
        -(10**40),
        1e308,
        -1e-308,
        5e-324,
        0.1,
        1e22,
        -0.0,
        1.0,
        123456789.123456789,
    ),
    {"emoji": "🐈‍⬛", "nul": "a\0b", "quote": '"\\/\b\f\n\r\t', "line": "\u2028\u2029", "last": "\U0010ffff"},
    {"名前": ["値", {"a": [1, [2, [3.25, {"b": {}}]]]}], "x" * 300: "y" * 70_000},
    {"like SQL": "'; DROP TABLE entries; -- %s ? :name {entries}", "$.path": "$", "null": "null", "1": 1},
    nested(500),
]


def whole_event(raw: Any, number: int) -> Event:
    return Event(
        platform="line",
        kind="message.text",
        raw=raw,
        id=f"{number:>0255}",
        text=f"'\"\\ 🐈 \0 {number}",
        conversation=Conversation("group", f"{number} 名前 \0 " + "c" * 200),
        user_id="u" * 255,
        reply_token="",
        timestamp_ms=2**53,
        standby=True,
        redelivered=True,
    )


@pytest.mark.parametrize("counted", [True, False])
def test_an_entry_that_is_tried_again_says_so(make: Maker, counted: bool) -> None:
    bench = make()
    bench.put(text_event("x"))
    wait_until(lambda: len(bench.out) == 1)
    assert not bench.out[0].again
    bench.inbox.settle(bench.out[0], Outcome(State.RETRY, "not yet", counted=counted))
    wait_until(lambda: len(bench.out) == 2)
    assert (bench.out[1].again, bench.out[1].attempts) == (True, counted)


@pytest.mark.parametrize("pool", [1000, 0], ids=["run at once", "read back"])
def test_events_come_out_as_they_went_in(make: Maker, pool: int) -> None:
    bench = make(pool=pool)
    bare = [Event(platform="plain", kind="unknown", raw=raw) for raw in RAWS]
    whole = [whole_event(raw, number) for number, raw in enumerate(RAWS)]
    bench.put(*bare, *whole)
    bench.pool = 1000
    wait_until(lambda: len(bench.out) == 2 * len(RAWS))
    assert [entry.event for entry in bench.out] == [*bare, *whole]
    assert repr([entry.event.raw for entry in bench.out[: len(RAWS) - 1]]) == repr(RAWS[:-1])


DEPTHS = [500, 985, 990, 993, 994, 995, 996, 997, 998, 999, 1000, 1001, 2000, 100_000]


@pytest.mark.parametrize("has_id", [True, False], ids=["with ids", "without ids"])
def test_what_is_nested_too_deep_is_kept_without_its_raw_and_holds_up_nobody(make_on_disk: Maker, has_id: bool) -> None:
    bench = make_on_disk(pool=0)
    for depth in DEPTHS:
        raw, id = nested(depth), str(depth) if has_id else None
        deep = Event(platform="line", kind="message.text", raw=raw, text=str(depth), id=id)
        bench.put(deep, text_event(f"beside {depth}"))
    bench.pool = 1000
    wait_until(lambda: len(bench.out) == 2 * len(DEPTHS))
    assert bench.texts() == [text for depth in DEPTHS for text in (str(depth), f"beside {depth}")]
    for depth, entry in zip(DEPTHS, bench.out[::2], strict=True):
        found = entry.event.raw
        assert (found is None) == (depth >= 1000) or 900 < depth < 1000, depth
        while found is not None and found != "the bottom":
            [found] = found
