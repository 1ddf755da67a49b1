"""What every store promises when workers are at it at the same instant: threads, each with a store of its own."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from gbot.inbox import Entry, Outcome, State
from gbot.inboxes.store import Place, Turned
from tests.contracts.conftest import HireWorker
from tests.contracts.store_model import Row, broken_rules
from tests.contracts.stores import Worker, event_of, texts_of

HAMMER_S = 1.0
HAMMERED_MIN = 60  # turns, however long they take
REDELIVERIES = 50
OUTCOMES = [*[Outcome(State.DONE)] * 6, Outcome(State.DEAD, "it failed"), Outcome(State.RETRY, "it failed")]


def at_once(*calls: Callable[[], object]) -> list[object]:
    """Call all of them at the same instant, each in a thread of its own; what they return."""
    barrier = threading.Barrier(len(calls))

    def begin(call: Callable[[], object]) -> object:
        barrier.wait(20)
        return call()

    with ThreadPoolExecutor(len(calls)) as threads:
        return list(threads.map(begin, calls))


def test_of_fifty_redeliveries_at_once_one_is_stored(hire: HireWorker) -> None:
    workers = [hire() for _ in range(REDELIVERIES)]

    def put(worker: Worker) -> Turned:
        return worker.put(event_of("a", of="u1", id="m1"), event_of("b", id="m2"), run_max=2)

    turned = at_once(*(lambda worker=worker: put(worker) for worker in workers))
    assert sum(done.stored for done in turned) == 2
    assert sum(done.duplicates for done in turned) == 2 * REDELIVERIES - 2
    assert sorted(text for done in turned for text in texts_of(done.running)) == ["a", "b"]
    assert len(workers[0].records()) == 2


def test_batches_with_the_same_events_in_another_order(hire: HireWorker) -> None:
    workers = [hire() for _ in range(8)]
    ids = [f"m{i}" for i in range(40)]
    orders = [random.Random(seed).sample(ids, len(ids)) for seed in range(len(workers))]

    def put(worker: Worker, order: list[str]) -> Turned:
        return worker.put(*(event_of(id, of=f"u{ids.index(id) % 5}", id=id) for id in order))

    turned = at_once(
        *(lambda worker=worker, order=order: put(worker, order) for worker, order in zip(workers, orders, strict=True))
    )
    assert sum(done.stored for done in turned) == len(ids)
    assert sorted(workers[0].places()) == sorted(ids)
    ready = [record for record in workers[0].records() if record.place is Place.READY]
    assert len(ready) == 5


def test_an_entry_is_claimed_once(hire: HireWorker) -> None:
    workers = [hire() for _ in range(8)]
    workers[0].put(*(event_of(f"{i}", of=f"u{i}" if i % 2 else None) for i in range(400)))

    def claim_all(worker: Worker) -> list[Entry]:
        claimed: list[Entry] = []
        while some := worker.claim(7):
            claimed += some
        return claimed

    claimed = [entry for entries in at_once(*(lambda w=w: claim_all(w) for w in workers)) for entry in entries]
    claimed += claim_all(workers[0])  # what was locked by others when each of them looked last
    assert sorted(entry.number for entry in claimed) == [record.number for record in workers[0].records()]
    assert {entry.number: entry.claim for entry in claimed} == {r.number: r.worker for r in workers[0].records()}


def test_events_of_one_conversation_at_once_start_one(hire: HireWorker) -> None:
    one, other = hire(), hire()
    for number in range(40):
        _start_one(one, other, f"u{number}")


def _start_one(one: Worker, other: Worker, of: str) -> None:
    turned = at_once(
        lambda: one.put(event_of(f"{of} one", of=of), run_max=1),
        lambda: other.put(event_of(f"{of} other", of=of), run_max=1),
    )
    running = [entry for done in turned for entry in done.running]
    assert len(running) == 1
    assert not one.claim() + other.claim()
    # The other one starts when it ends, even while a third one arrives.
    owner, guest = (one, other) if running[0].claim == one.life else (other, one)
    at_once(
        lambda: owner.settle(Outcome(State.DONE), *running),
        lambda: guest.put(event_of(f"{of} third", of=of), run_max=1),
    )
    assert sorted(record.place for record in one.records()) == [Place.READY, Place.BEHIND]
    for _ in range(2):
        one.settle(Outcome(State.DONE), *one.claim())
    assert not one.records()


class Ledger:
    """What the workers of a hammering have been handed and have ended, kept outside the store."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[str, int] = {}  # conversation → the life that runs it
        self.put: set[str] = set()
        self.done: Counter[str] = Counter()
        self.died: Counter[str] = Counter()
        self.stored = 0
        self.settled_late = 0
        self.wrong: list[str] = []

    def handed_out(self, entries: list[Entry], life: int) -> None:
        """Called after the turn that handed them out."""
        with self._lock:
            for entry in entries:
                if entry.event.conversation is not None:
                    owner = self._running.setdefault(entry.event.conversation.id, life)
                    if owner != life:
                        self.wrong.append(f"{entry.event.conversation.id} runs at {owner} and {life}")

    def given_back(self, left: list[Entry], given: list[Entry], life: int) -> None:
        """Called before the turn that gives them back; ``left`` stay with this life."""
        kept = {entry.event.conversation.id for entry in left if entry.event.conversation}
        with self._lock:
            for entry in given:
                conversation = entry.event.conversation
                if conversation is None or conversation.id in kept:
                    continue
                if self._running.get(conversation.id) == life:
                    del self._running[conversation.id]

    def count(self, ids: list[str], turned: Turned, settled: list[tuple[Entry, Outcome]]) -> None:
        with self._lock:
            self.put.update(ids)
            self.stored += turned.stored
            self.settled_late += turned.late
            self.done.update(entry.event.text or "" for entry, outcome in settled if outcome.state is State.DONE)
            self.died.update(entry.event.text or "" for entry, outcome in settled if outcome.state is State.DEAD)


def hammer(worker: Worker, ledger: Ledger, seed: int) -> None:
    """Random turns until the time is over and there were enough of them, then whatever there is left."""
    choose, mine = random.Random(seed), []
    end, id_of = time.monotonic() + HAMMER_S, (f"m{i}" for i in range(1_000_000))

    def step(events_max: int) -> int:
        choose.shuffle(mine)
        given = [mine.pop() for _ in range(choose.randrange(len(mine) + 1))]
        outcomes = [*OUTCOMES, Outcome(State.RELEASED)] if events_max else OUTCOMES[:1]
        settled = [(entry, choose.choice(outcomes)) for entry in given]
        ids = [next(id_of) for _ in range(choose.randrange(events_max + 1))]
        choose.shuffle(ids)
        ledger.given_back(mine, given, worker.life)
        events = [event_of(id, of=choose.choice([None, *(f"u{i}" for i in range(6))]), id=id) for id in ids]
        turned = worker.turn(settled, events, choose.randrange(6), choose.randrange(6))
        ledger.handed_out(turned.running, worker.life)
        ledger.count(ids, turned, settled)
        mine.extend(turned.running)
        return len(mine)

    turns = 0
    while turns < HAMMERED_MIN or time.monotonic() < end:
        turns += 1
        step(5)
        if choose.random() < 0.1:
            worker.tidy()
        if choose.random() < 0.02:
            ledger.given_back([], mine, worker.life)
            mine.clear()
            worker.store.leave(worker.life)
            worker.life = worker.store.enlist()
    deadline = time.monotonic() + 20
    while step(0) or worker.look().held > len(_dead(worker)):
        assert time.monotonic() < deadline, f"something is stuck: {Counter(worker.places().values())}"
        worker.tidy()


def _dead(worker: Worker) -> list[str]:
    return [text for text, place in worker.places().items() if place is Place.DEAD]


def watch(worker: Worker, strict: bool, over: threading.Event) -> list[str]:
    """The rules that always hold, at as many instants as can be looked at."""
    looks = 0
    while looks < 10 or not over.is_set():
        rows = [Row(r.event, r.place, r.received_ms, r.worker) for r in worker.records()]
        worker.look()
        looks += 1
        if broken := broken_rules(rows, strict):
            return broken
    return []


def test_two_workers_hammer_and_everything_ends_once(hire: HireWorker, strict: bool) -> None:
    one, other, watcher = hire(), hire(), hire()
    ledger, over = Ledger(), threading.Event()

    def both() -> None:
        try:
            at_once(lambda: hammer(one, ledger, 1), lambda: hammer(other, ledger, 2))
        finally:
            over.set()

    _, broken = at_once(both, lambda: watch(watcher, strict, over))
    assert broken == []
    assert ledger.wrong == []
    assert ledger.settled_late == 0
    assert ledger.stored == len(ledger.put) > 100
    ended = ledger.done + ledger.died
    assert set(ended) == ledger.put
    assert set(ended.values()) == {1}
    assert set(watcher.places().values()) <= {Place.DEAD}
    assert watcher.look().held == len(watcher.records())


def test_people_and_workers_at_the_same_time(hire: HireWorker) -> None:
    one, other, person = hire(), hire(), hire()
    ledger, over = Ledger(), threading.Event()

    def both() -> None:
        try:
            at_once(lambda: hammer(one, ledger, 3), lambda: hammer(other, ledger, 4))
        finally:
            over.set()

    at_once(both, lambda: retry_all(person, over))
    person.desk.retry([record.number for record in person.records()], person.now_ms)
    while entries := person.claim():
        ledger.count(
            [], person.settle(Outcome(State.DONE), *entries), [(entry, Outcome(State.DONE)) for entry in entries]
        )
    assert ledger.wrong == []
    assert ledger.settled_late == 0
    assert set(ledger.done) == ledger.put
    assert set(ledger.done.values()) == {1}
    assert person.records() == []
    assert person.look().held == 0


def retry_all(person: Worker, over: threading.Event) -> None:
    """Let everything dead or waiting run again, as fast as possible."""
    retried = 0
    while not over.is_set():
        there = person.desk.records([Place.DEAD, Place.WAITING], 0, 50)
        person.look()
        retried += len(person.desk.retry([record.number for record in there], person.now_ms))
    assert retried > 0
