"""What every store promises its workers (gbot/inboxes/store.py), on each database and with both orders.

What people do by hand is in test_desk_contract.py, many workers at once in test_store_contention.py, and any order of
all of it in test_store_model.py.
"""

from __future__ import annotations

import pytest

from gbot.event import Conversation, Event
from gbot.inbox import Entry, Outcome, State
from gbot.inboxes.store import CLAIM_BYTES_MAX, ERROR_CHARS_MAX, RESCUES_MAX, SUSPECT_RESCUES, LifeEnded, Place
from tests.contracts.conftest import HireWorker
from tests.contracts.stores import (
    DEAD,
    DONE,
    KEEP_MS,
    LONG_AGO_MS,
    RELEASED,
    RETRY_AT_ONCE,
    WINDOW_MS,
    Database,
    Worker,
    event_of,
    policy_of,
    texts_of,
)

READY, RUNNING, WAITING, BEHIND = Place.READY, Place.RUNNING, Place.WAITING, Place.BEHIND


# Putting


@pytest.mark.parametrize("of", [None, "u1"])
@pytest.mark.parametrize("id", [None, "m1"])
def test_new_events_run_at_once_without_being_read_back(worker: Worker, of: str | None, id: str | None) -> None:
    events = [event_of("a"), event_of("b", of=of, id=id)]
    turned = worker.put(*events, run_max=5)
    assert [entry.event for entry in turned.running] == events
    assert all(entry.event is event for entry, event in zip(turned.running, events, strict=True))
    assert [(entry.claim, entry.attempts, entry.received_ms) for entry in turned.running] == [
        (worker.life, 0, LONG_AGO_MS)
    ] * 2
    assert turned.running[0].number < turned.running[1].number
    assert (turned.stored, turned.duplicates, turned.late) == (2, 0, 0)
    assert [(record.place, record.worker, record.number) for record in worker.records()] == [
        (RUNNING, worker.life, entry.number) for entry in turned.running
    ]


def test_what_there_is_no_room_for_is_stored_as_ready(worker: Worker) -> None:
    turned = worker.put(*map(event_of, "abcd"), run_max=2)
    assert texts_of(turned.running) == ["a", "b"]
    assert (turned.stored, turned.ready_left) == (4, True)
    assert worker.places() == {"a": RUNNING, "b": RUNNING, "c": READY, "d": READY}
    assert [record.worker for record in worker.records()] == [worker.life, worker.life, None, None]


def test_ready_entries_are_handed_out_in_order_and_once(hire: HireWorker) -> None:
    one, other = hire(), hire()
    one.put(*map(event_of, "abcd"))
    first = one.turn(claim_max=1)
    assert (texts_of(first.running), first.ready_left) == (["a"], True)
    assert [entry.claim for entry in first.running] == [one.life]
    rest = other.turn(claim_max=5)
    assert (texts_of(rest.running), rest.ready_left) == (["b", "c", "d"], False)
    assert [entry.claim for entry in rest.running] == [other.life] * 3
    assert [entry.received_ms for entry in rest.running] == [LONG_AGO_MS] * 3
    assert not one.claim()


def test_ready_left_is_never_a_lie(worker: Worker) -> None:
    worker.put(*map(event_of, "abc"))
    assert worker.turn(claim_max=1).ready_left
    assert worker.turn(events=[event_of("d")], run_max=1, claim_max=1).ready_left
    assert not worker.turn(claim_max=2).ready_left or not worker.claim()
    assert not worker.turn(claim_max=1).ready_left


def test_new_entries_come_before_claimed_ones_and_may_be_claimed_at_once(worker: Worker) -> None:
    worker.put(*map(event_of, "ab"))
    turned = worker.turn(events=list(map(event_of, "cde")), run_max=2, claim_max=9)
    assert texts_of(turned.running) == ["c", "d", "a", "b", "e"]
    assert turned.stored == 3


def test_a_claimed_event_is_what_was_put(worker: Worker) -> None:
    events = [
        Event(platform="line", kind="follow", raw={"é": [1, 2.5, None, True, 2**60], "'": '"\\'}, id="1", user_id="u"),
        Event(platform="plain", kind="message.text", raw="あ\x00\n🙂 {entries} ? %s", text="あ\x00\n🙂 {entries} ? %s"),
        Event(
            platform="messenger",
            kind="postback",
            raw={},
            id="x" * 255,
            text="",
            conversation=Conversation("group", "g" * 200),
            user_id="🙂",
            reply_token="r",
            timestamp_ms=1_700_000_000_123,
            standby=True,
            redelivered=True,
        ),
        Event(platform="line", kind="unknown", raw=None),
        Event(platform="line", kind="message.text", raw={"text": "é" * 500_000}, text="é" * 500_000),
    ]
    worker.put(*events)
    assert [entry.event for entry in worker.claim()] == events


@pytest.mark.parametrize("depth", [500, 900, 995, 1005, 3000, 100_000])
def test_what_is_nested_too_deep_is_stored_at_least_without_it(worker: Worker, depth: int) -> None:
    nested: object = "core"
    for _ in range(depth):
        nested = [nested]
    deep = Event(platform="line", kind="unknown", raw=nested, id="deep", text="deep")
    neighbour = event_of("neighbour", id="n")
    assert worker.put(deep, neighbour).stored == 2
    claimed = worker.claim()
    assert texts_of(claimed) == ["deep", "neighbour"]
    assert claimed[1].event == neighbour
    worker.settle(DEAD, *claimed)
    assert [record.event.id for record in worker.records()] == ["deep", "n"]


def test_a_turn_without_work_changes_nothing(worker: Worker) -> None:
    worker.put(event_of("a"))
    turned = worker.turn()
    assert (turned.running, turned.stored, turned.duplicates, turned.late) == ([], 0, 0, 0)
    assert turned.ready_left in (True, False)
    assert worker.places() == {"a": READY}


def test_thousands_in_one_turn(worker: Worker) -> None:
    events = [event_of(f"{i}", of=f"u{i % 700}" if i % 3 else None, id=f"m{i}" if i % 2 else None) for i in range(3000)]
    turned = worker.put(*events, run_max=1500)
    handed_out = {entry.event.text for entry in turned.running}
    assert len(handed_out) == len(turned.running) == 1500
    claimed = worker.claim(3000)
    kinds = [DONE, DEAD, Outcome(State.RETRY, "later", 1000.0), RELEASED]
    entries = turned.running + claimed
    settled = worker.turn([(entry, kinds[i % 4]) for i, entry in enumerate(entries)])
    assert settled.late == 0
    records = worker.records()
    assert sum(record.place is Place.DEAD for record in records) == len(entries[1::4])
    assert sum(record.place is WAITING for record in records) == len(entries[2::4])
    assert worker.look().held == len(records) == 3000 - len(entries[0::4])
    assert worker.put(*events, run_max=3000).duplicates == 1500


# Duplicates


def test_an_event_seen_before_is_dropped(hire: HireWorker) -> None:
    one, other = hire(), hire()
    one.put(event_of("a", id="m1"), run_max=1)
    for worker in (one, other):
        turned = worker.put(event_of("again", id="m1"), event_of("b", id=f"of {worker.life}"), run_max=5)
        assert (texts_of(turned.running), turned.stored, turned.duplicates) == (["b"], 1, 1)


def test_of_the_same_event_twice_in_a_batch_the_first_is_stored(worker: Worker) -> None:
    events = [event_of("first", id="m1"), event_of("second", id="m1"), event_of("other", id="m2")]
    turned = worker.put(*events, run_max=2)
    assert (texts_of(turned.running), turned.stored, turned.duplicates) == (["first", "other"], 2, 1)


def test_an_event_stays_seen_when_it_has_ended(worker: Worker) -> None:
    worker.settle(DONE, *worker.run(event_of("a", id="m1")))
    worker.settle(DEAD, *worker.run(event_of("b", id="m2")))
    assert worker.put(event_of("a", id="m1"), event_of("b", id="m2")).duplicates == 2


def test_an_event_settled_and_put_again_in_one_turn_is_a_duplicate(worker: Worker) -> None:
    running = worker.run(event_of("a", of="u1", id="m1"))
    turned = worker.turn([(running[0], DONE)], [event_of("again", of="u1", id="m1")], run_max=1)
    assert (turned.running, turned.duplicates) == ([], 1)
    assert worker.look().held == 0


def test_a_duplicate_leaves_its_conversation_alone(worker: Worker) -> None:
    worker.settle(DONE, *worker.run(event_of("a", of="u1", id="m1")))
    turned = worker.put(event_of("again", of="u1", id="m1"), event_of("b", of="u1", id="m2"), run_max=1)
    assert texts_of(turned.running) == ["b"]


def test_events_without_an_id_are_never_duplicates(worker: Worker) -> None:
    assert worker.put(event_of("a"), event_of("a"), event_of("b", of="u1")).stored == 3
    assert worker.put(event_of("a")).stored == 1


def test_an_id_is_compared_exactly_and_within_its_platform(worker: Worker) -> None:
    ids = [
        "a",
        "A",
        "a ",
        " a",
        "\u00e1",
        "a\u0301",
        "ä",
        "a\x00",
        "a\x00b",
        "a\x00c",
        "1",
        "01",
        "",
        "null",
        "'",
        '"',
        "\\",
        "%s",
    ]
    ids += ["🙂", "🙃", "x" * 255, "x" * 254 + "y", "あ" * 255]
    for platform in ("x", "X", "x "):
        events = [event_of(f"{i} {platform}", id=id, platform=platform) for i, id in enumerate(ids)]
        assert worker.put(*events).stored == len(ids)
        assert worker.put(*events).duplicates == len(ids)
    platforms = [event_of("split", id="b c", platform="a"), event_of("otherwise", id="c", platform="a b")]
    assert worker.put(*platforms).stored == 2


def test_an_id_is_forgotten_when_the_window_is_over(worker: Worker) -> None:
    worker.settle(DONE, *worker.run(event_of("a", id="m1")))
    worker.now_ms += WINDOW_MS - 1000
    assert worker.put(event_of("redelivered", id="m1")).duplicates == 1  # which does not begin the window anew
    worker.now_ms += 2000
    assert texts_of(worker.put(event_of("new", id="m1"), run_max=1).running) == ["new"]
    worker.now_ms += WINDOW_MS - 1000
    assert worker.put(event_of("redelivered", id="m1")).duplicates == 1  # the new one began its own


def test_an_id_that_came_back_does_not_keep_others_from_being_forgotten(worker: Worker) -> None:
    worker.put(event_of("a", id="m1"))
    worker.now_ms += 1000
    worker.put(event_of("b", id="m2"))
    worker.now_ms += WINDOW_MS - 500  # m1 is over, m2 not yet
    assert worker.put(event_of("a", id="m1"), event_of("b", id="m2")).stored == 1
    worker.now_ms += 1000  # m2 is over
    worker.tidy_all()
    assert worker.desk.counts().seen == 1
    assert worker.put(event_of("a", id="m1"), event_of("b", id="m2")).stored == 1


# Conversations


def test_the_events_of_a_conversation_that_came_together_run_together(worker: Worker) -> None:
    turned = worker.put(*(event_of(text, of="u1") for text in "abc"), event_of("x", of="u2"), run_max=9)
    assert texts_of(turned.running) == ["a", "b", "c", "x"]


def test_an_event_waits_behind_those_of_its_conversation(worker: Worker) -> None:
    first = worker.run(event_of("a", of="u1"))
    turned = worker.put(event_of("b", of="u1"), event_of("c", of="u1"), event_of("x", of="u2"), run_max=9)
    assert texts_of(turned.running) == ["x"]
    assert worker.places() == {"a": RUNNING, "b": BEHIND, "c": BEHIND, "x": RUNNING}
    assert not worker.claim()
    assert worker.settle(DONE, *first).ready_left
    assert worker.places() == {"b": READY, "c": BEHIND, "x": RUNNING}
    second = worker.claim()
    assert texts_of(second) == ["b"]
    assert texts_of(worker.turn([(second[0], DONE)], claim_max=5).running) == ["c"]


def test_an_event_waits_behind_ready_ones_of_its_conversation(worker: Worker) -> None:
    worker.put(event_of("a", of="u1"))
    turned = worker.put(event_of("b", of="u1"), run_max=5)
    assert (turned.running, worker.places()) == ([], {"a": READY, "b": BEHIND})


def test_an_event_waits_while_another_worker_runs_one_of_its_conversation(hire: HireWorker) -> None:
    one, other = hire(), hire()
    running = one.run(event_of("a", of="u1"))
    assert not other.turn(events=[event_of("b", of="u1")], run_max=5, claim_max=5).running
    one.settle(DONE, *running)
    assert texts_of(other.claim()) == ["b"]


def test_a_conversation_freed_in_this_turn_starts_its_follower_in_it(worker: Worker) -> None:
    first = worker.run(event_of("a", of="u1"))
    turned = worker.turn([(first[0], DONE)], [event_of("b", of="u1")], run_max=1)
    assert texts_of(turned.running) == ["b"]
    worker.put(event_of("c", of="u1"))
    turned = worker.turn([(turned.running[0], DONE)], [event_of("d", of="u1")], run_max=5, claim_max=5)
    assert texts_of(turned.running) == ["c"]
    assert worker.places() == {"c": RUNNING, "d": BEHIND}


def test_a_conversation_is_one_of_its_platform_and_kind_compared_exactly(worker: Worker) -> None:
    names = ["u", "U", "u ", " u", "ü", "u\x00", "u\x00a", "🙂", "🙃", "x" * 255]
    events = [event_of(name, of=name) for name in names]
    events += [event_of("group", of="u", kind="group"), event_of("platform", of="u", platform="plain")]
    worker.put(*events)  # all of them are ready: each is the first of its conversation
    assert texts_of(worker.claim()) == texts_of([Entry(0, event) for event in events])


def test_at_most_a_hundred_of_a_conversation_run_together(worker: Worker) -> None:
    turned = worker.put(*(event_of(f"{i}", of="u1") for i in range(130)), event_of("x"), run_max=500)
    assert texts_of(turned.running) == [*map(str, range(100)), "x"]
    assert [record.place for record in worker.records()[100:130]] == [BEHIND] * 30
    worker.settle(DONE, *turned.running[:99])
    assert not worker.claim()
    assert texts_of(worker.turn([(turned.running[99], DONE)], claim_max=9).running) == ["100"]


def test_when_one_of_a_conversation_does_not_run_the_later_ones_do_not_either(worker: Worker) -> None:
    events = [
        event_of("a1", of="a"),
        event_of("b1", of="b"),
        event_of("a2", of="a"),
        event_of("x"),
        event_of("b2", of="b"),
    ]
    turned = worker.put(*events, run_max=2)
    assert texts_of(turned.running) == ["a1", "b1"]
    assert worker.places() == {"a1": RUNNING, "b1": RUNNING, "a2": BEHIND, "x": READY, "b2": BEHIND}


def test_when_none_of_a_conversation_runs_the_first_is_ready(worker: Worker) -> None:
    events = [
        event_of("x"),
        event_of("a1", of="a"),
        event_of("a2", of="a"),
        event_of("b1", of="b"),
        event_of("a3", of="a"),
    ]
    turned = worker.turn(events=events, run_max=1, claim_max=1)
    assert texts_of(turned.running) == ["x", "a1"]
    assert worker.places() == {"x": RUNNING, "a1": RUNNING, "a2": BEHIND, "b1": READY, "a3": BEHIND}


def test_those_behind_do_not_use_up_room(worker: Worker) -> None:
    worker.run(event_of("a1", of="a"))
    turned = worker.put(event_of("a2", of="a"), event_of("a3", of="a"), event_of("x"), event_of("y"), run_max=2)
    assert texts_of(turned.running) == ["x", "y"]


def test_a_turn_hands_out_no_more_bytes_than_fit_into_memory(worker: Worker) -> None:
    large = "x" * (CLAIM_BYTES_MAX // 4 + 1)
    for number in range(6):
        worker.put(event_of(f"{number}{large}"))
    first = worker.turn(claim_max=10)
    assert 1 <= len(first.running) <= 4
    assert first.ready_left
    taken = [*first.running]
    while more := worker.claim():
        taken += more
    assert [entry.event.text[:1] for entry in taken if entry.event.text] == list("012345")


def test_one_that_waits_for_its_attempt_holds_its_conversation_up_only_if_strict(worker: Worker, strict: bool) -> None:
    running = worker.run(event_of("a", of="u1"))
    worker.put(event_of("b", of="u1"))
    worker.settle(RETRY_AT_ONCE, *running)
    assert worker.places() == {"a": WAITING, "b": BEHIND if strict else READY}
    assert texts_of(worker.claim()) == ([] if strict else ["b"])
    worker.put(event_of("c", of="u1"))
    assert worker.places()["c"] is BEHIND
    worker.tidy()
    assert worker.places() == {"a": READY if strict else BEHIND, "b": BEHIND if strict else RUNNING, "c": BEHIND}


def test_a_conversation_in_which_one_waits_for_its_attempt_is_free_only_if_relaxed(
    worker: Worker, strict: bool
) -> None:
    worker.settle(RETRY_AT_ONCE, *worker.run(event_of("a", of="u1")))
    running = worker.put(event_of("b", of="u1"), event_of("c", of="u1"), run_max=5).running
    assert texts_of(running) == ([] if strict else ["b", "c"])
    assert worker.places() == {"a": WAITING} | dict.fromkeys("bc", BEHIND if strict else RUNNING)
    worker.tidy()
    assert worker.places()["a"] is (READY if strict else BEHIND)


def test_one_behind_that_is_earlier_than_one_waiting_goes_on(worker: Worker) -> None:
    entries = worker.run(*(event_of(text, of="u1") for text in "abc"))
    worker.turn([(entries[0], RELEASED), (entries[1], RETRY_AT_ONCE), (entries[2], RELEASED)])
    assert worker.places() == {"a": READY, "b": WAITING, "c": BEHIND}


def test_dead_and_done_ones_do_not_hold_their_conversation_up(hire: HireWorker) -> None:
    worker = hire(keep_done_ms=KEEP_MS)
    dead, done = worker.run(event_of("dead", of="u1"), event_of("done", of="u1"))
    worker.turn([(dead, DEAD), (done, DONE)])
    assert worker.places() == {"dead": Place.DEAD, "done": Place.DONE}
    assert texts_of(worker.put(event_of("next", of="u1"), run_max=1).running) == ["next"]


# Settling


@pytest.mark.parametrize("state", [State.DONE, State.UNHANDLED, State.DROPPED])
def test_what_ended_well_leaves(worker: Worker, state: State) -> None:
    running = worker.run(event_of("a"), event_of("b"))
    turned = worker.settle(Outcome(state, "reason"), running[0])
    assert (turned.running, turned.stored, turned.late) == ([], 0, 0)
    assert worker.places() == {"b": RUNNING}


@pytest.mark.parametrize("state", [State.DONE, State.UNHANDLED, State.DROPPED])
def test_what_ended_well_is_kept_as_long_as_wished(hire: HireWorker, state: State) -> None:
    worker = hire(keep_done_ms=KEEP_MS)
    running = worker.run(event_of("a", of="u1", id="m1"))
    worker.now_ms += 1000
    worker.settle(Outcome(state), *running)
    record = worker.record_of("a")
    assert (record.place, record.number, record.event) == (Place.DONE, running[0].number, running[0].event)
    assert (record.received_ms, record.ended_ms) == (LONG_AGO_MS, LONG_AGO_MS + 1000)
    assert (record.attempts, record.worker, record.due_ms) == (0, None, None)
    assert worker.look().held == 0
    worker.now_ms += KEEP_MS - 1000
    worker.tidy_all()
    assert worker.places() == {"a": Place.DONE}
    worker.now_ms += 2000
    worker.tidy_all()
    assert worker.places() == {}


def test_what_died_is_kept_with_its_error(hire: HireWorker) -> None:
    worker = hire(keep_done_ms=KEEP_MS)
    running = worker.run(event_of("a", of="u1", id="m1"))
    worker.now_ms += 1000
    worker.settle(Outcome(State.DEAD, "Zeile 1\nValueError: ü🙂"), *running)
    record = worker.record_of("a")
    assert (record.place, record.number, record.event) == (Place.DEAD, running[0].number, running[0].event)
    assert (record.received_ms, record.ended_ms) == (LONG_AGO_MS, LONG_AGO_MS + 1000)
    assert (record.attempts, record.error, record.worker) == (1, "Zeile 1\nValueError: ü🙂", None)
    assert worker.look().held == 1
    worker.now_ms += 1000 * KEEP_MS
    worker.tidy_all()
    assert worker.places() == {"a": Place.DEAD}


def test_what_is_to_be_tried_again_waits_until_it_is_due(worker: Worker) -> None:
    running = worker.run(event_of("a"))
    worker.settle(Outcome(State.RETRY, "it failed", 2.5), *running)
    record = worker.record_of("a")
    assert (record.place, record.due_ms, record.attempts) == (WAITING, LONG_AGO_MS + 2500, 1)
    assert (record.error, record.worker, record.number) == ("it failed", None, running[0].number)
    worker.now_ms += 2499
    assert (worker.tidy_all().woken, worker.claim()) == (0, [])
    worker.now_ms += 1
    assert worker.tidy_all().woken == 1
    again = worker.claim()
    assert again == [Entry(running[0].number, running[0].event, worker.life, 1, LONG_AGO_MS, again=True)]
    worker.settle(Outcome(State.DEAD, "again"), *again)
    record = worker.record_of("a")
    assert (record.attempts, record.error, record.due_ms) == (2, "again", None)


def test_of_a_long_error_the_end_is_kept(worker: Worker) -> None:
    error = "".join(f"{i:06}é" for i in range(2000))
    dead, waiting = worker.run(event_of("dead"), event_of("waiting"))
    worker.turn([(dead, Outcome(State.DEAD, error)), (waiting, Outcome(State.RETRY, error, 1.0))])
    assert [record.error for record in worker.records()] == [error[-ERROR_CHARS_MAX:]] * 2


def test_errors_of_one_turn_are_not_mixed_up(worker: Worker) -> None:
    entries = worker.run(*(event_of(f"{i}") for i in range(20)))
    kinds = (State.DEAD, State.RETRY)
    worker.turn([(entry, Outcome(kinds[i % 2], f"error {i}", i * 1.0)) for i, entry in enumerate(entries)])
    assert {(record.event.text, record.error, record.attempts) for record in worker.records()} == {
        (f"{i}", f"error {i}", 1) for i in range(20)
    }
    due = {record.event.text: record.due_ms for record in worker.records() if record.place is WAITING}
    assert due == {f"{i}": LONG_AGO_MS + 1000 * i for i in range(1, 20, 2)}


def test_a_released_entry_is_ready_again_at_its_old_place(worker: Worker) -> None:
    a, b = worker.run(event_of("a"), event_of("b"))
    worker.put(event_of("c"))
    worker.settle(RELEASED, b, a)
    assert [(entry.event.text, entry.attempts, entry.number) for entry in worker.claim()][:2] == [
        ("a", 0, a.number),
        ("b", 0, b.number),
    ]


def test_a_release_is_no_attempt_and_keeps_the_last_error(worker: Worker) -> None:
    worker.settle(Outcome(State.RETRY, "it failed"), *worker.run(event_of("a")))
    worker.tidy_all()
    worker.settle(RELEASED, *worker.claim())
    record = worker.record_of("a")
    assert (record.attempts, record.error, record.due_ms) == (1, "it failed", None)


def test_released_entries_of_a_conversation_keep_their_order(worker: Worker) -> None:
    entries = worker.run(*(event_of(text, of="u1") for text in "abc"))
    worker.put(event_of("d", of="u1"))
    worker.settle(DONE, entries[0])
    worker.settle(RELEASED, entries[2])
    assert worker.places() == {"b": RUNNING, "c": BEHIND, "d": BEHIND}
    worker.settle(RELEASED, entries[1])
    assert worker.places() == {"b": READY, "c": BEHIND, "d": BEHIND}


def test_a_claim_hands_out_one_of_a_conversation_at_a_time(worker: Worker) -> None:
    worker.put(*(event_of(text, of="u1") for text in "abc"))
    for text in "abc":
        claimed = worker.claim()
        assert texts_of(claimed) == [text]
        assert not worker.claim()
        worker.settle(DONE, *claimed)
    assert not worker.look().held


def test_a_settlement_under_another_claim_is_refused_and_counted(hire: HireWorker) -> None:
    one, other = hire(), hire()
    entries = one.run(*map(event_of, "abcde"))
    one.store.leave(one.life)
    assert texts_of(other.claim(4)) == ["a", "b", "c", "d"]
    one.life = one.store.enlist()
    outcomes = [DONE, DEAD, RETRY_AT_ONCE, RELEASED, DONE]
    turned = one.turn(list(zip(entries, outcomes, strict=True)), [event_of("f")], run_max=1)
    assert (turned.late, texts_of(turned.running)) == (5, ["f"])
    assert one.places() == dict.fromkeys("abcd", RUNNING) | {"e": READY, "f": RUNNING}
    assert one.look().held == 6


def test_a_second_settlement_is_late(hire: HireWorker) -> None:
    worker = hire(keep_done_ms=KEEP_MS)
    entries = worker.run(*map(event_of, "abcd"))
    outcomes = [DONE, DEAD, Outcome(State.RETRY, "", 9.0), RELEASED]
    assert worker.turn(list(zip(entries, outcomes, strict=True))).late == 0
    places = worker.places()
    for outcome in outcomes:
        assert worker.settle(outcome, *entries).late == 4
    assert worker.places() == places
    assert worker.look().held == 3


def test_late_and_timely_settlements_of_one_turn(hire: HireWorker) -> None:
    one, other = hire(), hire()
    entries = one.run(*map(event_of, "abcd"))
    one.settle(DONE, entries[1])
    strange = [Entry(entries[2].number, entries[2].event, claim=other.life), Entry(10**9, event_of("x"), one.life)]
    turned = one.turn(
        [(entries[0], DONE), (entries[1], DONE), (strange[0], DONE), (strange[1], DEAD), (entries[3], DEAD)]
    )
    assert turned.late == 3
    assert one.places() == {"c": RUNNING, "d": Place.DEAD}
    assert one.look().held == 2


# Looking and tidying


def test_an_inbox_without_work_has_nothing_to_do(worker: Worker) -> None:
    look = worker.look()
    assert (look.ready, look.tidy, look.held) == (False, False, 0)
    tidied = worker.tidy()
    assert (tidied.woken, tidied.rescued, tidied.lives_ended, tidied.more) == (0, 0, (), False)


def test_a_look_sees_what_is_ready(worker: Worker) -> None:
    worker.put(event_of("a", of="u1"), event_of("b", of="u1"))
    assert worker.look().ready
    claimed = worker.claim()
    assert not worker.look().ready
    worker.settle(DONE, *claimed)
    assert worker.look().ready


def test_a_look_sees_what_is_due(worker: Worker) -> None:
    running = worker.run(event_of("a"), event_of("b"))
    worker.settle(Outcome(State.RETRY, "", 1e10), running[0])  # in three hundred years
    assert not worker.look().tidy
    worker.settle(RETRY_AT_ONCE, running[1])
    assert worker.look().tidy
    worker.tidy_all()
    assert not worker.look().tidy


def test_a_look_sees_what_is_to_be_purged(hire: HireWorker) -> None:
    worker = hire(keep_done_ms=KEEP_MS)
    worker.settle(DONE, *worker.run(event_of("a")))
    assert worker.look().tidy
    worker.now_ms += 2 * KEEP_MS
    worker.tidy_all()
    assert not worker.look().tidy
    worker.put(event_of("b", id="m1"))
    assert worker.look().tidy
    worker.now_ms += 2 * WINDOW_MS
    worker.tidy_all()
    assert not worker.look().tidy


def test_a_look_does_not_call_for_tidying_what_is_young(hire: HireWorker) -> None:
    long_ms = 10_000 * 365 * 86_400_000
    worker = hire(keep_done_ms=long_ms, dedup_window_ms=long_ms)
    worker.settle(DONE, *worker.run(event_of("a", id="m1")))
    worker.settle(DEAD, *worker.run(event_of("b", id="m2")))
    assert not worker.look().tidy


def test_many_are_woken_in_bounded_steps_and_in_order(worker: Worker) -> None:
    entries = worker.run(*(event_of(f"{i}") for i in range(1300)))
    worker.settle(RETRY_AT_ONCE, *reversed(entries))
    assert worker.tidy().more
    tidied = worker.tidy_all()
    assert tidied.woken < 1300
    assert texts_of(worker.claim(2000)) == [f"{i}" for i in range(1300)]


def test_much_is_purged_in_bounded_steps(hire: HireWorker) -> None:
    worker = hire(keep_done_ms=KEEP_MS)
    entries = worker.run(*(event_of(f"{i}", id=f"m{i}") for i in range(2500)))
    worker.settle(DONE, *entries)
    worker.now_ms += 2 * WINDOW_MS
    assert worker.tidy().more
    assert 0 < worker.desk.counts().seen < 2500
    worker.tidy_all()
    counts = worker.desk.counts()
    assert (counts.seen, counts.by_place.get(Place.DONE, 0)) == (0, 0)


def test_held_counts_all_that_is_not_settled_of_all_workers(hire: HireWorker) -> None:
    one, other = hire(keep_done_ms=KEEP_MS), hire(keep_done_ms=KEEP_MS)

    def held(expected: int) -> None:
        assert (one.look().held, other.look().held) == (expected, expected)

    entries = one.run(*(event_of(text, id=text) for text in "abcdef"))
    held(6)
    other.put(event_of("a", id="a"), event_of("g", of="u1"), event_of("h", of="u1"))
    held(8)
    one.turn([(entries[0], DONE), (entries[1], DEAD), (entries[2], RETRY_AT_ONCE), (entries[3], RELEASED)])
    held(7)
    one.turn([(entries[0], DONE), (entries[4], DONE)], [event_of("i")])
    held(7)
    other.settle(DONE, *other.claim())
    held(4)  # dead, waiting, running, behind
    one.store.leave(one.life)
    assert other.look().held == 4
    one.life = one.store.enlist()
    held(4)


# Lives


def test_each_life_has_a_number_of_its_own(hire: HireWorker) -> None:
    one, other = hire(), hire()
    lives = [one.life, other.life]
    for worker in (one, other, one):
        worker.store.leave(worker.life)
        worker.life = worker.store.enlist()
        lives.append(worker.life)
    assert lives[0] > 0
    assert lives == sorted(set(lives))


def test_numbers_are_not_used_again(worker: Worker) -> None:
    last = 0
    for text in "abc":
        running = worker.run(event_of(text))
        assert running[0].number > last
        last = running[0].number
        worker.settle(DONE, *running)


def test_leaving_puts_everything_back(hire: HireWorker) -> None:
    one, other = hire(), hire()
    one.run(*(event_of(text, of="u1") for text in "ab"), event_of("x"))
    kept = other.run(event_of("y"))
    one.store.leave(one.life)
    assert other.places() == {"a": READY, "b": BEHIND, "x": READY, "y": RUNNING}
    assert [(entry.event.text, entry.attempts) for entry in other.claim()] == [("a", 0), ("x", 0)]
    assert other.settle(DONE, *kept).late == 0
    one.store.leave(one.life)  # a second time is harmless
    assert other.look().held == 3


def test_nothing_is_written_in_a_life_that_has_ended(hire: HireWorker) -> None:
    one, other = hire(), hire()
    entries = one.run(*map(event_of, "abc"))
    one.store.leave(one.life)
    other.claim(1)
    before = other.records()
    with pytest.raises(LifeEnded):
        one.turn([(entries[0], DONE), (entries[1], DEAD)], [event_of("d", id="m1")], run_max=5, claim_max=5)
    with pytest.raises(LifeEnded):
        one.turn([(entries[0], RELEASED)])
    with pytest.raises(LifeEnded):
        one.claim()
    with pytest.raises(LifeEnded):
        one.turn()
    with pytest.raises(LifeEnded):
        one.look()
    assert other.records() == before
    assert other.look().held == 3
    one.life = one.store.enlist()
    assert one.put(event_of("d", id="m1")).stored == 1


def test_the_entries_of_a_worker_that_is_gone_are_rescued(hire: HireWorker) -> None:
    gone, here = hire(), hire()
    gone.settle(RETRY_AT_ONCE, *gone.run(event_of("waiting")))
    gone.put(event_of("ready"))
    lost = gone.run(*(event_of(text, of="u1") for text in "ab"), event_of("x"))
    kept = here.run(event_of("y"))
    here.put(event_of("c", of="u1"))
    before = here.look()
    assert before.held == 7
    gone.vanish()
    assert here.look().tidy
    tidied = here.tidy_all()
    assert (tidied.rescued, tidied.lives_ended) == (3, (gone.life,))
    records = {record.event.text: record for record in here.records()}
    assert {text: record.rescues for text, record in records.items() if record.rescues} == {"a": 1, "b": 1, "x": 1}
    assert {record.attempts for text, record in records.items() if text in "abx"} == {0}
    assert {text: records[text].place for text in "abcxy"} == {
        "a": READY,
        "b": BEHIND,
        "c": BEHIND,
        "x": READY,
        "y": RUNNING,
    }
    assert not here.settle(DONE, *kept).late
    assert here.settle(DONE, *lost).late == 3
    assert here.look().held == 6
    assert here.desk.counts().workers == 1
    with pytest.raises(LifeEnded):
        gone.turn(events=[event_of("z")])
    assert here.tidy_all().lives_ended == ()


def test_an_entry_that_was_run_before_says_so(hire: HireWorker) -> None:
    gone, here = hire(), hire()
    gone.settle(RETRY_AT_ONCE, *gone.run(event_of("failed")))
    gone.settle(Outcome(State.RETRY, "the API is away", counted=False), *gone.run(event_of("put off")))
    gone.settle(RELEASED, *gone.run(event_of("given back")))
    gone.run(event_of("rescued"))
    gone.put(event_of("new"))
    gone.vanish()
    here.tidy_all()
    entries = here.turn(claim_max=10).running
    assert {entry.event.text: entry.again for entry in entries} == {
        "failed": True,
        "put off": True,
        "given back": False,
        "rescued": True,
        "new": False,
    }


def test_an_entry_that_took_too_many_workers_with_it_is_dead(hire: HireWorker) -> None:
    here = hire()
    here.put(*(event_of(text, of="u1") for text in "ab"))
    for rescues in range(1, RESCUES_MAX + 1):
        assert here.records()[0].rescues == rescues - 1
        gone = hire()
        assert texts_of(gone.claim()) == ["a"]
        gone.vanish()
        assert here.tidy_all().lives_ended == (gone.life,)
    [dead] = here.desk.records([Place.DEAD], 0, 10)
    assert (texts_of([dead]), dead.rescues, dead.attempts) == (["a"], RESCUES_MAX, 0)
    assert str(RESCUES_MAX) in dead.error
    assert here.places()["b"] == READY
    assert here.look().held == 2
    assert here.desk.retry([dead.number], 0) == [dead.number]


def test_entries_that_may_have_ended_their_workers_are_handed_out_one_by_one(hire: HireWorker) -> None:
    here = hire()
    here.put(*map(event_of, "abc"))
    for _ in range(SUSPECT_RESCUES):
        gone = hire()
        assert texts_of(gone.claim(2)) == ["a", "b"]
        gone.vanish()
        here.tidy_all()
    here.put(event_of("d"))
    assert [texts_of(here.claim()) for _ in range(4)] == [["a"], ["b"], ["c", "d"], []]


def test_a_worker_that_is_gone_and_held_nothing_is_forgotten(hire: HireWorker) -> None:
    gone, here = hire(), hire()
    gone.settle(DONE, *gone.run(event_of("a")))
    gone.vanish()
    here.tidy_all()
    assert here.desk.counts().workers == 1
    assert here.look().held == 0


def test_a_settlement_before_the_rescue_is_in_time(hire: HireWorker) -> None:
    gone, here = hire(), hire()
    lost = gone.run(event_of("a"), event_of("b"))
    gone.vanish()
    assert here.settle(DONE, lost[0]).late == 0
    assert here.tidy_all().rescued == 1
    assert here.places() == {"b": READY}
    assert here.look().held == 1


def test_workers_that_are_there_are_not_rescued_from(hire: HireWorker) -> None:
    one, other = hire(), hire()
    one.run(event_of("a"))
    other.run(event_of("b"))
    for worker in (one, other):
        assert not worker.look().tidy
        assert worker.tidy_all().rescued == 0
    assert one.places() == {"a": RUNNING, "b": RUNNING}


def test_entries_nobody_knows_of_are_put_back(hire: HireWorker) -> None:
    one, other = hire(), hire()
    entries = one.run(*(event_of(text, of="u1") for text in "ab"), *(event_of(text) for text in "cd"))
    other.run(event_of("x"))
    assert one.store.orphans(one.life, [entry.number for entry in entries]) == 0
    assert one.store.orphans(one.life, [entries[2].number, 10**9]) == 3
    assert one.places() == {"a": READY, "b": BEHIND, "c": RUNNING, "d": READY, "x": RUNNING}
    assert {record.attempts for record in one.records()} == {0}
    assert one.store.orphans(one.life, []) == 1
    assert texts_of(other.claim()) == ["a", "c", "d"]


def test_orphans_among_thousands_that_are_known(worker: Worker) -> None:
    entries = worker.run(*(event_of(f"{i}") for i in range(3000)))
    assert worker.store.orphans(worker.life, [entry.number for entry in entries[:-2]]) == 2
    assert texts_of(worker.claim()) == ["2998", "2999"]


# Opening and closing


def test_what_was_stored_is_there_when_opened_again(worker: Worker, database: Database) -> None:
    worker.put(event_of("a", id="m1"), event_of("b", of="u1"), run_max=1)
    worker.store.leave(worker.life)
    before = worker.records()
    database.close()
    again = Worker(database, worker.policy)
    assert again.records() == before
    assert again.life > worker.life
    assert again.put(event_of("a", id="m1")).duplicates == 1
    assert texts_of(again.claim()) == ["a", "b"]


def test_a_closed_store_opens_itself(worker: Worker) -> None:
    worker.put(event_of("a"))
    worker.store.close()
    worker.store.close()
    assert worker.places() == {"a": READY}
    worker.life = worker.store.enlist()
    assert texts_of(worker.claim()) == ["a"]


def test_opening_is_harmless_while_others_work(worker: Worker, database: Database, strict: bool) -> None:
    worker.run(event_of("a"))
    other = database.store(policy_of(strict))
    other.open()
    assert other.migrate() == []
    assert worker.places() == {"a": RUNNING}
    assert worker.look().held == 1
