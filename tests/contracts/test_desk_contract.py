"""What every store promises to people who work with it by hand (``Desk`` of gbot/inboxes/store.py)."""

from __future__ import annotations

import pytest

from gbot.inbox import Entry, Outcome, State
from gbot.inboxes.store import Place
from tests.contracts.conftest import HireWorker
from tests.contracts.stores import DEAD, DONE, KEEP_MS, LONG_AGO_MS, Worker, event_of, texts_of

READY, RUNNING, WAITING, BEHIND = Place.READY, Place.RUNNING, Place.WAITING, Place.BEHIND
LATER = Outcome(State.RETRY, "it failed", 1000.0)


@pytest.fixture
def one_of_each(hire: HireWorker) -> tuple[Worker, dict[str, int]]:
    """A worker with an entry at each place, and their numbers by the name of the place."""
    worker = hire(keep_done_ms=KEEP_MS)
    entries = worker.run(
        *(event_of(text, id=text) for text in ("DEAD", "DONE", "WAITING")), event_of("RUNNING", of="u")
    )
    worker.put(event_of("READY"), event_of("BEHIND", of="u"))
    worker.turn(list(zip(entries, [DEAD, DONE, LATER], strict=False)))
    assert worker.places() == {place.name: place for place in Place}
    return worker, {record.event.text or "": record.number for record in worker.records()}


def test_counts(one_of_each: tuple[Worker, dict[str, int]], hire: HireWorker) -> None:
    worker, _ = one_of_each
    worker.put(event_of("another"))
    hire()
    counts = worker.desk.counts()
    assert {place: counts.by_place.get(place, 0) for place in Place} == dict.fromkeys(Place, 1) | {READY: 2}
    assert (counts.workers, counts.seen, counts.oldest_ready_ms) == (2, 3, LONG_AGO_MS)


def test_counts_of_an_empty_inbox(worker: Worker) -> None:
    counts = worker.desk.counts()
    assert (sum(counts.by_place.values()), counts.oldest_ready_ms, counts.seen) == (0, None, 0)


def test_the_oldest_ready_entry_is_that_which_arrived_first(worker: Worker) -> None:
    worker.put(event_of("a"))
    worker.now_ms += 5000
    worker.put(event_of("b"))
    assert worker.desk.counts().oldest_ready_ms == LONG_AGO_MS
    worker.claim(1)
    assert worker.desk.counts().oldest_ready_ms == LONG_AGO_MS + 5000


@pytest.mark.parametrize("place", Place)
def test_records_of_a_place(one_of_each: tuple[Worker, dict[str, int]], place: Place) -> None:
    worker, numbers = one_of_each
    assert texts_of(worker.desk.records([place], 0, 10)) == [place.name]
    assert worker.desk.records([place], numbers[place.name], 10) == []
    record = worker.desk.record(numbers[place.name])
    assert record == worker.desk.records([place], 0, 1)[0]
    assert (record.place, record.received_ms) == (place, LONG_AGO_MS)
    assert (record.worker is not None) == (place is RUNNING)
    assert (record.due_ms is not None) == (place is WAITING)
    assert (record.ended_ms is not None) == (place in (Place.DEAD, Place.DONE))


def test_records_by_pages(worker: Worker) -> None:
    worker.settle(DEAD, *worker.run(*(event_of(f"{i}") for i in range(0, 4))))
    worker.put(*(event_of(f"{i}") for i in range(4, 8)))
    places, pages, after = [READY, Place.DEAD], [], 0
    while page := worker.desk.records(places, after, 3):
        pages.append(texts_of(page))
        after = page[-1].number
    assert pages == [["0", "1", "2"], ["3", "4", "5"], ["6", "7"]]
    assert worker.desk.records([], 0, 10) == []


def test_a_record_that_is_not_there(worker: Worker) -> None:
    assert worker.desk.record(10**9) is None


def test_retry_makes_dead_and_waiting_entries_run_soon(one_of_each: tuple[Worker, dict[str, int]]) -> None:
    worker, numbers = one_of_each
    worker.now_ms += 1000
    held = worker.look().held
    done = worker.desk.retry([*numbers.values(), 10**9], worker.now_ms)
    assert sorted(done) == sorted([numbers["DEAD"], numbers["WAITING"]])
    assert worker.look().held == held
    assert worker.look().ready
    worker.tidy_all()
    claimed = {entry.event.text: entry for entry in worker.claim()}
    assert set(claimed) == {"DEAD", "WAITING", "READY"}
    for text in ("DEAD", "WAITING"):
        assert (claimed[text].number, claimed[text].attempts) == (numbers[text], 0)
        assert claimed[text].received_ms == LONG_AGO_MS
    assert worker.settle(DONE, *claimed.values()).late == 0
    assert worker.look().held == 2
    assert worker.places() == dict.fromkeys(["DEAD", "DONE", "WAITING", "READY"], Place.DONE) | {
        "RUNNING": RUNNING,
        "BEHIND": BEHIND,
    }


def test_a_dead_entry_run_again_waits_for_its_conversation(worker: Worker) -> None:
    dead = worker.run(event_of("dead", of="u1"))
    worker.settle(DEAD, *dead)
    running = worker.run(event_of("a", of="u1"))
    worker.put(event_of("b", of="u1"))
    assert worker.desk.retry([dead[0].number], worker.now_ms) == [dead[0].number]
    assert worker.places() == {"dead": BEHIND, "a": RUNNING, "b": BEHIND}
    worker.settle(DONE, *running)
    assert texts_of(worker.claim()) == ["dead"]


def test_of_several_dead_entries_of_a_conversation_the_first_is_ready(worker: Worker) -> None:
    entries = worker.run(*(event_of(text, of="u1") for text in "abc"))
    worker.settle(DEAD, *entries)
    worker.desk.retry([entry.number for entry in reversed(entries)], worker.now_ms)
    assert worker.places() == {"a": READY, "b": BEHIND, "c": BEHIND}


def test_retry_of_a_waiting_entry_begins_its_conversation_with_it(worker: Worker, strict: bool) -> None:
    entries = worker.run(event_of("a", of="u1"))
    worker.put(event_of("b", of="u1"))
    worker.settle(LATER, *entries)
    worker.desk.retry([entries[0].number], worker.now_ms)
    assert worker.places() == ({"a": READY, "b": BEHIND} if strict else {"a": BEHIND, "b": READY})


def test_drop_removes_what_does_not_run(one_of_each: tuple[Worker, dict[str, int]]) -> None:
    worker, numbers = one_of_each
    there = {text: number for text, number in numbers.items() if text != "DONE"}
    assert worker.look().held == 5
    dropped = worker.desk.drop([*there.values(), 10**9])
    assert sorted(dropped) == sorted(number for text, number in there.items() if text != "RUNNING")
    assert worker.places() == {"RUNNING": RUNNING, "DONE": Place.DONE}
    assert worker.look().held == 1
    assert worker.desk.drop(list(there.values())) == []
    assert worker.look().held == 1


def test_what_was_dropped_is_still_a_duplicate(worker: Worker) -> None:
    worker.put(event_of("a", id="m1"))
    worker.desk.drop([record.number for record in worker.records()])
    assert worker.put(event_of("a", id="m1")).duplicates == 1


@pytest.mark.parametrize("first", [READY, WAITING])
def test_dropping_the_first_of_a_conversation_lets_the_next_one_go(worker: Worker, first: Place, strict: bool) -> None:
    if first is READY:
        worker.put(event_of("a", of="u1"))
    else:
        worker.settle(LATER, *worker.run(event_of("a", of="u1")))
        if not strict:
            worker.run(event_of("overtakes", of="u1"))
    worker.put(event_of("b", of="u1"), event_of("c", of="u1"))
    assert worker.desk.drop([worker.record_of("a").number])
    places = worker.places()
    assert places["c"] is BEHIND
    assert places["b"] is (BEHIND if "overtakes" in places else READY)


def test_dropping_one_behind_leaves_the_others_where_they_are(worker: Worker) -> None:
    worker.put(*(event_of(text, of="u1") for text in "abc"))
    worker.desk.drop([worker.record_of("b").number])
    assert worker.places() == {"a": READY, "c": BEHIND}


def test_thousands_by_hand(worker: Worker) -> None:
    entries = worker.run(*(event_of(f"{i}", of=f"u{i}" if i % 2 else None) for i in range(1200)))
    numbers = [entry.number for entry in entries]
    worker.settle(DEAD, *entries)
    assert worker.desk.retry(numbers, worker.now_ms) == numbers
    assert {record.place for record in worker.records()} == {READY}
    assert worker.desk.drop(numbers[:1100]) == numbers[:1100]
    assert worker.look().held == 100
    assert [entry.number for entry in worker.claim()] == numbers[1100:]


def test_purge_removes_what_was_done_before(hire: HireWorker) -> None:
    worker = hire(keep_done_ms=KEEP_MS)

    def end(text: str, outcome: Outcome) -> Entry:
        entry = worker.run(event_of(text))[0]
        worker.settle(outcome, entry)
        worker.now_ms += 1000
        return entry

    for i in range(5):
        end(f"{i}", DONE)
    end("dead", DEAD)
    assert worker.desk.purge_done(LONG_AGO_MS + 3000, 2) == 2
    assert worker.desk.purge_done(LONG_AGO_MS + 3000, 2) == 1
    assert worker.desk.purge_done(LONG_AGO_MS + 3000, 2) == 0
    assert worker.places() == {"3": Place.DONE, "4": Place.DONE, "dead": Place.DEAD}
    assert worker.look().held == 1


def test_migrating_an_up_to_date_inbox_does_nothing(one_of_each: tuple[Worker, dict[str, int]]) -> None:
    worker, numbers = one_of_each
    assert worker.desk.migrate() == []
    assert len(worker.records()) == len(numbers)


def test_the_place_is_named_in_the_words_of_its_url(worker: Worker) -> None:
    assert worker.desk.place == worker.store.place
    assert worker.desk.place.startswith(("sqlite:///", "mysql://"))
